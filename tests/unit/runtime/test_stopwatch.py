"""A watch that stands still while somebody holds it."""

import asyncio
import time

import pytest

from amplifier_app_api.runtime.stopwatch import Stopwatch


def spend(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_it_counts_while_nobody_holds_it() -> None:
    watch = Stopwatch()
    spend(0.01)
    watch.hold()
    held_at = watch.elapsed
    assert held_at >= 0.01

    spend(0.01)

    assert watch.elapsed == held_at
    watch.go_on()
    spend(0.01)
    assert watch.elapsed >= held_at + 0.01


def test_it_goes_on_when_the_last_one_lets_go() -> None:
    watch = Stopwatch()
    watch.hold()
    watch.hold()
    watch.go_on()
    held_at = watch.elapsed
    spend(0.005)

    assert watch.elapsed == held_at
    watch.go_on()
    spend(0.005)
    assert watch.elapsed > held_at


async def test_the_alarm_does_not_ring_while_the_watch_is_held() -> None:
    watch = Stopwatch()
    rang = asyncio.Event()
    watch.set_alarm(0.05, rang.set)
    watch.hold()
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.15, passed.set)

    await passed.wait()

    assert not rang.is_set()
    watch.go_on()
    async with asyncio.timeout(5):
        await rang.wait()
    assert watch.elapsed >= 0.05


@pytest.mark.parametrize("seconds", [0, -1])
async def test_the_alarm_of_a_time_that_is_over_rings_at_once(seconds: float) -> None:
    watch = Stopwatch()
    rang = asyncio.Event()

    watch.set_alarm(seconds, rang.set)

    async with asyncio.timeout(5):
        await rang.wait()


async def test_an_alarm_that_was_cleared_or_set_anew_does_not_ring() -> None:
    watch = Stopwatch()
    rang: list[str] = []
    last = asyncio.Event()
    watch.set_alarm(0, lambda: rang.append("first"))
    watch.clear_alarm()
    watch.set_alarm(0, lambda: rang.append("second"))
    watch.set_alarm(0.01, last.set)

    async with asyncio.timeout(5):
        await last.wait()

    assert rang == []


async def test_a_watch_that_is_held_and_let_go_of_again_rings_its_alarm_once() -> None:
    watch = Stopwatch()
    rang: list[float] = []
    later = asyncio.Event()
    watch.set_alarm(0.01, lambda: rang.append(watch.elapsed))
    for _ in range(3):
        watch.hold()
        watch.go_on()

    asyncio.get_running_loop().call_later(0.1, later.set)
    await later.wait()

    assert len(rang) == 1
    assert rang[0] >= 0.01
