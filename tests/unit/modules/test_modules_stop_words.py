import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplifier_app_api.modules.providers.stop_words import StopWords


def shown(pieces: list[str], words: list[str]) -> str:
    stop = StopWords(words)
    return "".join(stop.passing(piece) for piece in pieces) + stop.rest()


@given(st.lists(st.text("abc", max_size=4)), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_a_text_in_pieces_ends_where_the_whole_would(pieces: list[str], words: list[str]) -> None:
    whole = "".join(pieces)
    ends = [at for word in words if (at := whole.find(word)) >= 0]

    found = shown(pieces, words)

    # A stop sequence that ends first wins, as it does with a model that is stopped while it writes.
    assert whole.startswith(found)
    assert bool(ends) == (len(found) < len(whole))
    assert not any(word in found for word in words)


@pytest.mark.parametrize("words", [[], [""]])
def test_without_stop_sequences_nothing_is_held_back(words: list[str]) -> None:
    stop = StopWords(words)

    assert [stop.passing(piece) for piece in ("a", "b")] == ["a", "b"]
    assert (stop.rest(), stop.hit) == ("", False)
