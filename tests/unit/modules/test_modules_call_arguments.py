"""What is made of the text in which a model wrote a call's arguments."""

from typing import Any

import pytest
from amplifier_core.llm_errors import StreamError

from amplifier_app_api.modules.providers.call_arguments import arguments_of


def read(text: str | None, *, cut_off: bool = False) -> dict[str, Any] | None:
    return arguments_of(text, cut_off=cut_off, provider="p", model="m")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"x": 1}', {"x": 1}),
        ('"{\\"x\\": 1}"', {"x": 1}),  # written twice over
        ('{"x": NaN}', {"x": "NaN"}),
        ("", {}),
        (None, {}),
        ("null", {}),
        ("[]", {}),
    ],
)
def test_arguments_are_an_object(text: str | None, arguments: dict[str, Any]) -> None:
    assert read(text) == arguments


@pytest.mark.parametrize("text", ['{"x', "[1]", "7", '"words"', '"[1]"', "true"])
def test_no_call_is_made_with_other_arguments_than_the_model_wrote(text: str) -> None:
    with pytest.raises(StreamError):
        read(text)


@pytest.mark.parametrize("text", ['{"x', "", None, "7"])
def test_a_call_that_was_cut_off_is_not_made(text: str | None) -> None:
    assert read(text, cut_off=True) is None


def test_a_call_that_was_complete_when_the_answer_was_cut_off_is_made() -> None:
    assert read('{"x": 1}', cut_off=True) == {"x": 1}
