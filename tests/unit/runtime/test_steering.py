"""Handing messages to a loop, and seeing which of them it used."""

import asyncio
from typing import Any

from amplifier_app_api.runtime.steering import Handover
from amplifier_app_api.storage.steering import SteeringMessage
from seals import PLAIN


def message(identity: str, text: str, context: dict[str, Any] | None = None) -> SteeringMessage:
    return SteeringMessage(identity, "s", "t", "turn", text, context)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_nothing_is_handed_over_before_the_loop_asks_its_model() -> None:
    heard: list[str] = []
    handover = Handover(heard.append, PLAIN)
    handover.offer([message("1", "a")])
    before = list(heard)

    handover.loop_began()
    handover.offer([message("2", "b")])

    assert (before, heard) == ([], ["a", "b"])
    assert handover.unused and handover.known


def test_a_message_that_is_offered_twice_is_handed_over_once() -> None:
    heard: list[str] = []
    handover = Handover(heard.append, PLAIN)
    handover.loop_began()

    for _ in range(2):
        handover.offer([message("1", "a")])

    assert heard == ["a"]


def test_what_the_loop_adds_is_recorded_as_the_message_it_was_handed() -> None:
    heard: list[str] = []
    handover = Handover(heard.append, PLAIN)
    handover.loop_began()
    handover.offer([message("1", "a"), message("2", "a"), message("3", "b", {"k": 1})])

    of_nobody = handover.recorded(user("something a hook says"))
    units = [handover.recorded(user(heard[place])) for place in (2, 0, 1)]

    assert of_nobody is None
    rows = [unit.messages[0] for unit in units if unit is not None]
    assert [(row.message_id, row.content, row.context) for row in rows] == [
        ("3", "b", {"k": 1}),
        ("1", "a", None),
        ("2", "a", None),
    ]
    assert rows[0].kernel == user('<message-context>{"k":1}</message-context>\n\nb')
    assert not handover.unused


def test_a_loop_that_cannot_be_steered_is_told_nothing_and_holds_nothing() -> None:
    handover = Handover(None, PLAIN)
    handover.loop_began()
    handover.offer([message("1", "a")])

    assert (handover.unused, handover.known) == (False, True)


def test_a_message_that_the_loop_does_not_take_stays_pending_with_those_behind_it() -> None:
    heard: list[str] = []

    def full_after_one(text: str) -> None:
        if heard:
            raise RuntimeError("full")
        heard.append(text)

    handover = Handover(full_after_one, PLAIN)
    handover.loop_began()
    handover.offer([message("1", "a"), message("2", "b"), message("3", "c")])
    taken = handover.recorded(user("a"))

    assert heard == ["a"]
    assert taken is not None
    assert not handover.unused
    heard.clear()
    handover.offer([])
    assert heard == ["b"]


async def test_a_loop_may_take_its_time_to_take_a_message() -> None:
    heard: list[str] = []
    taken = asyncio.Event()

    async def slowly(text: str) -> None:
        heard.append(text)
        taken.set()

    handover = Handover(slowly, PLAIN)
    handover.loop_began()
    handover.offer([message("1", "a")])

    async with asyncio.timeout(5):
        await taken.wait()
    assert heard == ["a"]
    assert handover.recorded(user("a")) is not None
    handover.close()
