"""JSON or a stream: what the header asks for."""

import pytest

from amplifier_app_api.api.negotiation import prefers_json


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "application/json, */*;q=0.1",
        "application/json, text/plain",
        "text/event-stream;q=0.5, application/json",
        "Application/JSON; q=0.2",
    ],
)
def test_json_is_for_who_asks_for_it(accept: str) -> None:
    assert prefers_json(accept)


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        "*/*",
        "text/event-stream",
        "text/html, */*",
        "application/json;q=0",
        "application/json, text/event-stream",
        "application/json;q=nonsense",
    ],
)
def test_everybody_else_gets_the_stream(accept: str | None) -> None:
    assert not prefers_json(accept)
