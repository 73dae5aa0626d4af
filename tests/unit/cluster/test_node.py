"""Which nodes are alive, as far as this one can tell."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

from amplifier_app_api.cluster.node import NodeWatch, process_start, this_process
from amplifier_app_api.storage.nodes import NodeIdentity, SeenNode

ME = this_process()
ELSEWHERE = NodeIdentity("other", "another boot", ME.pid, ME.process_started)
DEAD_AFTER = timedelta(seconds=8)


def watch(*, alone: bool = False, steady: float = 100.0) -> NodeWatch:
    return NodeWatch(ME, alone=alone, dead_after=DEAD_AFTER, steady=lambda: steady)


def test_every_start_is_another_node() -> None:
    assert this_process().node_id != ME.node_id
    assert replace(this_process(), node_id="") == replace(ME, node_id="")


def test_the_start_of_a_process_tells_it_from_a_later_one_with_the_same_id() -> None:
    assert process_start(os.getpid()) == ME.process_started
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_start(child.pid) not in (None, ME.process_started)
    child.communicate(b"\n")
    assert process_start(child.pid) is None


def test_who_has_the_database_alone_takes_every_other_node_for_ended() -> None:
    assert watch(alone=True).lives(SeenNode(ME, 0)) is True
    assert watch(alone=True).lives(SeenNode(ELSEWHERE, 0)) is False


def test_a_process_of_this_machine_that_is_not_there_any_more_is_known_at_once() -> None:
    before = replace(ME, node_id="other", process_started="an earlier start")

    assert watch(steady=0).lives(SeenNode(before, 0)) is False
    assert watch(steady=0).lives(SeenNode(replace(ME, node_id="beside"), 0)) is True


def test_a_node_elsewhere_is_dead_when_it_was_silent_for_too_long() -> None:
    assert watch().lives(SeenNode(ELSEWHERE, 8000)) is True
    assert watch().lives(SeenNode(ELSEWHERE, 8001)) is False


def test_who_could_not_store_its_own_beats_declares_nobody_dead() -> None:
    assert watch(steady=7.9).lives(SeenNode(ELSEWHERE, 60_000)) is True


def test_a_node_that_was_silent_for_too_long_and_is_here_is_as_dead_as_any() -> None:
    assert watch().lives(SeenNode(replace(ME, node_id="paused"), 60_000)) is False
