"""`If-None-Match`."""

import pytest

from amplifier_app_api.api.etags import names


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ('"3.5"', True),
        ('W/"3.5"', True),
        ('"1.1", "3.5"', True),
        ("*", True),
        ('"3.50"', False),
        ("3.5", False),
        ("", False),
        (None, False),
    ],
)
def test_a_state_is_named_by_its_whole_tag(header: str | None, named: bool) -> None:
    assert names(header, '"3.5"') is named
