"""The settings about sources, from the environment."""

import pytest

from amplifier_app_api.bundles.sources import AllowPattern
from amplifier_app_api.settings import InvalidSettings, load_settings


def test_nothing_remote_is_allowed_until_it_is_set() -> None:
    settings = load_settings()

    assert (settings.source_allow, settings.private_addresses, settings.source_cache_bytes) == ((), False, 2 * 2**30)


def test_patterns_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMPLIFIER_SOURCE_ALLOW", "git+https://github.com/org/*, example.com/x,git+file:///srv/*")
    monkeypatch.setenv("AMPLIFIER_PRIVATE_ADDRESSES", "on")
    monkeypatch.setenv("AMPLIFIER_SOURCE_CACHE_BYTES", "10MiB")

    settings = load_settings()

    assert settings.source_allow == ("git+https://github.com/org/*", "example.com/x", "git+file:///srv/*")
    assert [AllowPattern.parse(text).text for text in settings.source_allow] == list(settings.source_allow)
    assert (settings.private_addresses, settings.source_cache_bytes) == (True, 10 * 2**20)


@pytest.mark.parametrize(
    "text", ["ftp://example.com/*", "user@example.com/*", "https://example.com/x?y", "a b", "git://x/*"]
)
def test_what_is_no_pattern_refuses_to_start(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AMPLIFIER_SOURCE_ALLOW", text)

    with pytest.raises(InvalidSettings, match="AMPLIFIER_SOURCE_ALLOW"):
        load_settings()
