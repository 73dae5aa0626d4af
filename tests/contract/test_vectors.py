"""The golden vectors: what the real bundle library answers, case by case."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract import vector_runner as vectors
from contract.kernel_vector_runner import KINDS as KERNEL_KINDS

NOT_YET = vectors.not_yet_supported()


def _parameters() -> Iterator[object]:
    for name in vectors.case_names():
        if vectors.read_case(name).spec["kind"] in KERNEL_KINDS:
            continue  # test_kernel_vectors.py runs them
        why = NOT_YET.get(name)
        skipped = pytest.mark.skip(reason=f"{name} is not yet supported: {why}")
        yield pytest.param(name, marks=skipped if why else ())


@pytest.mark.parametrize("name", list(_parameters()))
def test_a_vector_is_answered_as_the_library_does_or_as_we_decided(name: str, tmp_path: Path) -> None:
    case = vectors.read_case(name)

    answer = vectors.run_case(case, tmp_path)

    expected = vectors.expected_answer(case)
    assert vectors.matches(answer, expected), f"\nanswered {answer}\nexpected {expected}"


def test_every_listed_case_exists_and_none_is_listed_twice() -> None:
    names = set(vectors.case_names())

    assert set(NOT_YET) - names == set()
    assert set(vectors.deviations()) - names == set()
    assert set(vectors.deviations()) & set(NOT_YET) == set()


def test_every_deviation_says_which_rule_why_and_what_we_answer() -> None:
    for name, deviation in vectors.deviations().items():
        assert deviation["rule"] and deviation["reason"], name
        assert ("expected" in deviation) != ("items" in deviation), name


def test_a_case_that_is_answered_like_the_library_is_no_deviation(tmp_path: Path) -> None:
    for name, deviation in vectors.deviations().items():
        case = vectors.read_case(name)
        (tmp_path / name).mkdir()
        answer = vectors.run_case(case, tmp_path / name)
        assert not vectors.matches(answer, vectors.library_answer(case)), f"{name}: {deviation['reason']}"
