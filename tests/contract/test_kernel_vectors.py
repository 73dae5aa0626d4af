"""The golden vectors that run on the real kernel, through our own loader and opening of sessions."""

from pathlib import Path

import pytest

from contract import kernel_vector_runner as kernel
from contract import vector_runner as vectors

NOT_YET = vectors.not_yet_supported()


def _cases() -> list[str]:
    return [name for name in vectors.case_names() if vectors.read_case(name).spec["kind"] in kernel.KINDS]


def _parameters() -> list[object]:
    def skipped(name: str) -> object:
        return pytest.mark.skip(reason=f"{name} is not yet supported: {NOT_YET[name]}")

    return [pytest.param(name, marks=skipped(name) if name in NOT_YET else ()) for name in _cases()]


@pytest.mark.parametrize("name", _parameters())
async def test_a_vector_runs_on_the_kernel_as_the_library_does_or_as_we_decided(name: str, tmp_path: Path) -> None:
    case = vectors.read_case(name)

    answer = await kernel.run_case(case, tmp_path)

    expected = kernel.expected_answer(case)
    assert kernel.matches(answer, expected), f"\nanswered {answer}\nexpected {expected}"


async def test_a_session_with_messages_to_restore_is_told_as_resumed(tmp_path: Path) -> None:
    case = vectors.read_case("session-resumed")
    case.spec["options"]["restored"] = [{"role": "user", "content": "before"}]

    answer = (await kernel.run_case(case, tmp_path))["result"]

    assert answer["events_during_execute"] == ["session:resume", "orchestrator:complete"]
    assert [message["content"] for message in answer["execute"]["messages"]] == ["before", "hello"]


def test_every_deviation_is_of_a_case_that_runs_and_says_which_rule_and_why() -> None:
    for name, deviation in kernel.deviations().items():
        assert name in _cases() and name not in NOT_YET, name
        assert deviation["rule"] and deviation["reason"], name
        assert ("expected" in deviation) != ("changes" in deviation), name
        assert not kernel.matches(kernel.expected_answer(vectors.read_case(name)), _library(name)), name


def _library(name: str) -> kernel.Answer:
    return vectors.library_answer(vectors.read_case(name))
