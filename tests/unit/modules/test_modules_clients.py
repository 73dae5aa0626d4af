"""Clients that sessions share, and the calls that may run at a time."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from amplifier_app_api.modules import MissingExtra
from amplifier_app_api.modules.providers import clients
from amplifier_app_api.modules.providers.clients import (
    SharedClient,
    certificates,
    load_implementation,
    open_clients,
    shared_client,
)

KIND = "of the test"


class Client:
    def __init__(self) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


def share(limit: int = 0, **identity: Any) -> SharedClient[Client]:
    return shared_client(KIND, identity, Client, Client.close, max_concurrent_requests=limit)


async def test_one_identity_has_one_client_which_the_last_release_closes() -> None:
    first, second = share(key="a"), share(key="a")
    assert first.client is second.client

    await first.release()
    assert (second.client.closed, open_clients(KIND)) == (0, 1)
    await second.release()
    assert (second.client.closed, open_clients(KIND)) == (1, 0)


async def test_releasing_twice_is_releasing_once() -> None:
    first, second = share(key="a"), share(key="a")

    await first.release()
    await first.release()

    assert second.client.closed == 0
    await second.release()


@pytest.mark.parametrize("other", [{"key": "b"}, {"key": "a", "base_url": "http://x"}, {"key": "a", "more": None}, {}])
async def test_whatever_differs_keeps_clients_apart(other: dict[str, Any]) -> None:
    one, two = share(key="a"), share(**other)

    assert one.client is not two.client
    await one.release()
    await two.release()


async def test_kinds_do_not_share() -> None:
    one = share(key="a")
    two = shared_client("another kind", {"key": "a"}, Client, Client.close)

    assert one.client is not two.client
    await one.release()
    await two.release()


async def test_a_client_that_was_closed_is_made_anew() -> None:
    one = share(key="a")
    await one.release()
    two = share(key="a")

    assert two.client is not one.client
    await two.release()


def test_loops_do_not_share_and_a_loop_that_ended_is_forgotten() -> None:
    async def left_open() -> Client:
        return share(key="a").client

    first, second = asyncio.run(left_open()), asyncio.run(left_open())
    assert first is not second

    async def count() -> int:
        await share(key="b").release()
        return len(clients._clients)

    assert asyncio.run(count()) == 0


async def test_no_key_is_kept_as_text() -> None:
    one = share(api_key="sk-very-secret")

    assert "sk-very-secret" not in repr(clients._clients)
    await one.release()


async def test_what_is_not_json_cannot_be_an_identity() -> None:
    with pytest.raises(TypeError):
        share(key=object())


class Calls:
    """Calls that hold a slot until they are told to end."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.running: list[int] = []
        self._ends: list[asyncio.Event] = []

    async def start(self, shared: SharedClient[Client]) -> int:
        number = len(self.tasks)
        self._ends.append(asyncio.Event())
        self.tasks.append(asyncio.create_task(self._call(shared, number)))
        await self.settle()
        return number

    async def end(self, number: int) -> None:
        self._ends[number].set()
        await self.tasks[number]
        await self.settle()

    async def cancel(self, number: int) -> None:
        self.tasks[number].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.tasks[number]
        await self.settle()

    async def settle(self) -> None:
        """Until everything that can go on has gone on."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def _call(self, shared: SharedClient[Client], number: int) -> None:
        async with shared.slot():
            self.running.append(number)
            try:
                await self._ends[number].wait()
            finally:
                self.running.remove(number)


@pytest.fixture
async def calls() -> Calls:
    return Calls()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert all(not entries for loop, entries in clients._clients.items() if not loop.is_closed())


async def test_a_limit_counts_the_calls_of_all_holders_and_lets_them_in_in_order(calls: Calls) -> None:
    one, two = share(2, key="a"), share(2, key="a")
    for shared in (one, two, one, two):
        await calls.start(shared)
    assert calls.running == [0, 1]

    await calls.end(0)
    assert calls.running == [1, 2]
    await calls.end(1)
    assert calls.running == [2, 3]
    await calls.end(2)
    await calls.end(3)
    await one.release()
    await two.release()


async def test_without_a_limit_nobody_waits(calls: Calls) -> None:
    shared = share(key="a")
    for _ in range(50):
        await calls.start(shared)

    assert len(calls.running) == 50
    for number in range(50):
        await calls.end(number)
    await shared.release()


async def test_each_holder_waits_by_its_own_limit(calls: Calls) -> None:
    wide, narrow = share(3, key="a"), share(1, key="a")
    await calls.start(wide)
    await calls.start(narrow)
    assert calls.running == [0]

    await calls.end(0)
    assert calls.running == [1]
    await calls.end(1)
    await wide.release()
    await narrow.release()


async def test_a_call_that_is_cancelled_gives_its_place_free(calls: Calls) -> None:
    shared = share(1, key="a")
    for _ in range(4):
        await calls.start(shared)

    await calls.cancel(1)  # while it waits
    await calls.cancel(0)  # while it runs
    assert calls.running == [2]
    await calls.end(2)
    assert calls.running == [3]
    await calls.end(3)
    await shared.release()


async def test_a_call_that_is_let_in_and_cancelled_in_one_moment_loses_no_place(calls: Calls) -> None:
    shared = share(1, key="a")
    first, second, third = [await calls.start(shared) for _ in range(3)]

    calls._ends[first].set()
    await calls.tasks[first]  # the place is the second's now, which has not run yet
    await calls.cancel(second)

    assert calls.running == [third]
    await calls.end(third)
    await shared.release()


async def test_a_missing_package_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtra) as raised:
        await load_implementation("provider-gemini", "no_such_package_of_a_vendor")

    assert str(raised.value) == (
        "Module provider-gemini needs the package 'no_such_package_of_a_vendor': install amplifier-app-api[gemini]"
    )


async def test_a_mistake_of_ours_is_not_taken_for_a_missing_package() -> None:
    with pytest.raises(ModuleNotFoundError) as raised:
        await load_implementation("provider-gemini", "amplifier_app_api.modules.providers.nowhere")

    assert not isinstance(raised.value, MissingExtra)


def test_certificates_are_read_once() -> None:
    assert certificates() is certificates()
