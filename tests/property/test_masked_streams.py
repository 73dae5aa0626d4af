"""A text in pieces is masked as its whole: whatever the text, the secrets, and the places where it is cut."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplifier_app_api.runtime.masking import MASK, MaskingStream, SecretMask

FOLDER = Path(__file__).parents[1] / "fixtures" / "modules" / "hooks-scissors"

# Few letters: so secrets overlap, begin alike and lie inside each other.
secrets = st.lists(st.text("ab\n\\-", min_size=6, max_size=12), min_size=1, max_size=5)
fragments = st.lists(st.one_of(st.text("ab\n\\- x", max_size=8), st.integers(0, 4)), max_size=12)
cuts = st.lists(st.integers(1, 7), min_size=1, max_size=8)


def written(parts: list[Any], values: list[str]) -> str:
    return "".join(values[part % len(values)] if isinstance(part, int) else part for part in parts)


def pieces_of(text: str, lengths: list[int]) -> list[str]:
    pieces: list[str] = []
    while text:
        length = lengths[len(pieces) % len(lengths)]
        pieces.append(text[:length])
        text = text[length:]
    return pieces


def streamed(stream: MaskingStream, pieces: list[str]) -> list[str]:
    return [*(stream.feed(piece) for piece in pieces), stream.finish()]


def stream_of(mask: SecretMask) -> MaskingStream:
    stream = mask.stream()
    assert stream is not None
    return stream


@pytest.fixture(scope="module")
def scissors() -> Any:
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("amplifier_module_hooks_scissors").Scissors(broken=False)
    finally:
        sys.path.remove(str(FOLDER))


@given(secrets, fragments, cuts)
def test_the_pieces_of_a_text_add_up_to_its_masked_whole(
    values: list[str], parts: list[Any], lengths: list[int]
) -> None:
    text, mask = written(parts, values), SecretMask(values)

    assert "".join(streamed(stream_of(mask), pieces_of(text, lengths))) == mask.text(text)


@given(secrets, fragments, cuts)
def test_no_piece_shows_what_the_masked_whole_does_not(values: list[str], parts: list[Any], lengths: list[int]) -> None:
    text, mask = written(parts, values), SecretMask(values)
    stream, come, shown = stream_of(mask), "", ""

    for piece in pieces_of(text, lengths):
        come, shown = come + piece, shown + stream.feed(piece)
        # Whatever comes next: what is shown by now is the beginning of it.
        assert all(mask.text(come + more).startswith(shown) for more in ("", "x", *(value[1:] for value in values)))
        assert not any(value in shown for value in values)


@given(secrets, fragments, cuts, st.integers(1, 11))
def test_a_text_that_is_cut_off_inside_a_secret_ends_with_a_mask(
    values: list[str], parts: list[Any], lengths: list[int], known: int
) -> None:
    beginning = values[0][: min(known, len(values[0]) - 1)]
    text, mask = written(parts, values) + " x" + beginning, SecretMask(values)
    stream = stream_of(mask)

    shown = "".join(stream.feed(piece) for piece in pieces_of(text, lengths)) + stream.finish(cut_off=True)

    if len(beginning) >= 4:
        assert shown.endswith(MASK)
    assert not any(value in shown for value in values)


@given(secrets, fragments, cuts)
def test_a_redactor_sees_the_same_text_in_pieces_as_whole(
    scissors: Any, values: list[str], parts: list[Any], lengths: list[int]
) -> None:
    text, mask = written([*parts, " SNIP-12 ", 0, "SNIP-3"], values), SecretMask(values, scissors)

    assert "".join(streamed(stream_of(mask), pieces_of(text, lengths))) == mask.text(text)
