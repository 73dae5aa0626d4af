"""Patterns: what they cover, and the spellings that must not slip through."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplifier_app_api.bundles.fetched import Unresolved
from amplifier_app_api.bundles.sources.policy import AllowPattern, SourcePolicy
from amplifier_app_api.bundles.sources.remote import read_remote


def covers(pattern: str, uri: str) -> bool:
    return AllowPattern.parse(pattern).covers(read_remote(uri))


@pytest.mark.parametrize(
    ("pattern", "uri"),
    [
        ("git+https://github.com/microsoft/*", "git+https://github.com/microsoft/amplifier@main#subdirectory=a"),
        ("git+https://github.com/microsoft/*", "git+https://GitHub.com:443/microsoft/amplifier.git"),
        ("git+https://github.com/microsoft/*", "git+https://github.com./microsoft/a/b/c"),
        ("git+https://github.com/microsoft/amplifier", "git+https://github.com/microsoft/amplifier.git/"),
        ("git+https://github.com/microsoft/amplifier.git", "git+https://github.com/microsoft/amplifier"),
        ("git+https://github.com/microsoft/amplifier-*", "git+https://github.com/microsoft/amplifier-core@v1"),
        ("github.com/org/*", "git+https://github.com/org/repository"),
        ("github.com/org/*", "zip+https://github.com/org/x.zip"),
        ("github.com/org/*", "https://github.com/org/x.md"),
        ("github.com", "https://github.com/anything/at/all.md"),
        ("https://example.com/bundles/*", "https://example.com/bundles/a/b.md?query=dropped"),
        ("https://example.com/bundles/*", "https://example.com/%62undles/a%7e.md"),
        ("https://example.com/*/bundle.md", "https://example.com/one/bundle.md"),
        ("https://*.example.com/*", "https://a.b.example.com/x.md"),
        ("https://*/*", "https://anywhere.test/x.md"),
        ("https://*:8443/*", "https://anywhere.test:8443/x.md"),
        ("https://example.com:8443/*", "https://example.com:8443/x.md"),
        ("http://example.com/*", "http://example.com:80/x.md"),
        ("git+file:///srv/git/*", "git+file:///srv/git/one@main"),
    ],
)
def test_a_pattern_covers(pattern: str, uri: str) -> None:
    assert covers(pattern, uri)


@pytest.mark.parametrize(
    ("pattern", "uri"),
    [
        ("git+https://github.com/microsoft/*", "git+https://github.com/microsoft"),
        ("git+https://github.com/microsoft/*", "git+https://github.com/microsoft-evil/x"),
        ("git+https://github.com/microsoft/*", "git+https://github.com/Microsoft/x"),
        ("git+https://github.com/microsoft/*", "git+https://github.com.evil.test/microsoft/x"),
        ("git+https://github.com/microsoft/*", "git+https://github.com:8443/microsoft/x"),
        ("git+https://github.com/microsoft/*", "git+http://github.com/microsoft/x"),
        ("git+https://github.com/microsoft/*", "zip+https://github.com/microsoft/x.zip"),
        ("git+https://github.com/microsoft/*", "git+https://github.com/evil/x@microsoft/y"),
        ("github.com/org/*", "http://github.com/org/x.md"),
        ("https://example.com/bundles", "https://example.com/bundles/x.md"),
        ("https://example.com/*/bundle.md", "https://example.com/one/two/bundle.md"),
        ("https://*.example.com/*", "https://example.com/x.md"),
        ("https://*.example.com/*", "https://badexample.com/x.md"),
        ("https://example.com:8443/*", "https://example.com/x.md"),
        ("git+file:///srv/git/*", "git+file:///srv/git/../secret"),
    ],
)
def test_a_pattern_does_not_cover(pattern: str, uri: str) -> None:
    assert not covers(pattern, uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:password@example.com/x.md",
        "https://example.com@evil.test/x.md",
        "https://example.com/bundles/../x.md",
        "https://example.com/bundles/%2e%2E/x.md",
        "https://example.com/bundles/..%2fx.md",
        "https://example.com/bundles/%5c..%5cx.md",
        "https://example.com/bundles/%00.md",
        "https://example.com//x.md",
        "https://example.com/./x.md",
        "https://example.com/%zz.md",
        "https://example.com\\@evil.test/x.md",
        "https://example.com/a\tb.md",
        "https://example.com:0/x.md",
        "https://example.com:99999/x.md",
        "https://ex\u0430mple.com/x.md",
        "https://exa mple.com/x.md",
        "https:///x.md",
        "https://[::1%25eth0]/x.md",
        "git+file://host/srv/git/one",
        "git+ssh://git@github.com/org/x",
        "zip+ftp://example.com/x.zip",
        "https://example.com/x.md#sha256=abc",
        "s3://bucket/x.md",
        "HTTPS://example.com/x.md",
    ],
)
def test_an_address_with_two_readings_is_refused(uri: str) -> None:
    with pytest.raises(Unresolved) as caught:
        read_remote(uri)

    assert caught.value.code == "source_not_allowed"


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(Unresolved) as caught:
        read_remote("https://user:secret@example.com/x.md")

    assert "secret" not in caught.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "ftp://example.com/*",
        "git+ssh://github.com/*",
        "https://user@example.com/*",
        "https://example.com/../x",
        "https://example.com/x?y",
        "https://example.com/x#y",
        "https://ex*mple.com/*",
        "git+https://github.com/org/x@main",
        "git+file://host/srv/*",
        "git+file://srv",
        "file:///srv/*",
    ],
)
def test_what_is_no_pattern_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        AllowPattern.parse(text)


def test_the_refusal_says_which_pattern_to_add() -> None:
    uri = "git+https://github.com/org/repository@main"
    with pytest.raises(Unresolved) as caught:
        SourcePolicy.of().check(read_remote(uri))

    suggested = caught.value.detail.split("'")[-2]
    SourcePolicy.of([suggested]).check(read_remote(uri))
    assert suggested == "git+https://github.com/org/*"


def test_a_local_repository_is_where_its_links_lead(tmp_path: Path) -> None:
    roots, outside = tmp_path / "roots", tmp_path / "outside"
    roots.mkdir()
    outside.mkdir()
    (roots / "link").symlink_to(outside)
    policy = SourcePolicy.of([f"git+file://{roots}/*"], roots=[roots])

    policy.check(read_remote(f"git+file://{roots}/repository"))
    with pytest.raises(Unresolved):
        policy.check(read_remote(f"git+file://{roots}/link/repository"))


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for prefix in ("", "https://example.com/", "git+https://", "zip+file:///"):
        try:
            remote = read_remote(prefix + text)
        except Unresolved as problem:
            assert problem.code == "source_not_allowed"
        else:
            assert ".." not in remote.url.split("/") or remote.transport == "file"


@given(st.text(alphabet="ab./%2eEfF@:*\\#?", max_size=30))
def test_what_is_read_is_read_the_same_again(tail: str) -> None:
    try:
        remote = read_remote(f"https://example.com/{tail}")
    except Unresolved:
        return
    again = read_remote(remote.pinned())

    assert (again.url, again.subpath) == (remote.url, remote.subpath)
