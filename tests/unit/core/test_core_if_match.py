"""`If-Match` against the state of a Config."""

from datetime import UTC, datetime

import pytest

from amplifier_app_api.core.if_match import ConfigChanged, IfMatch
from amplifier_app_api.models.config import ConfigMetadata

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = ConfigMetadata(
    config_id="c", name="n", revision=3, version=5, sha256="", created_at=NOW, updated_at=NOW
)  # its tag is "3.5"


@pytest.mark.parametrize(
    "header", [None, "*", " * ", '"3.5"', ' "3.5" ', '"1.1", "3.5"', 'W/"3.5","3.5"', '"a,b" , "3.5"']
)
def test_the_state_it_names_is_accepted(header: str | None) -> None:
    IfMatch.parse(header).check(CONFIG)


@pytest.mark.parametrize("header", ['"3.4"', 'W/"3.5"', "3.5", "", '"3.5', "'3.5'", '"3.5.0"', '"*"', '"1.1","2.2"'])
def test_another_state_is_refused_with_the_one_it_is_in(header: str) -> None:
    with pytest.raises(ConfigChanged) as refusal:
        IfMatch.parse(header).check(CONFIG)
    assert (refusal.value.status, refusal.value.code) == (412, "precondition_failed")
    assert refusal.value.facts == {"etag": '"3.5"'}
    assert refusal.value.headers == {"ETag": '"3.5"'}
