import random
from typing import Any

import pytest
from amplifier_core.testing import MockCoordinator
from hypothesis import given, settings
from hypothesis import strategies as st

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.hooks.redaction import make_redactor
from amplifier_app_api.modules.hooks.redaction_patterns import UnsafePattern, compile_pattern
from amplifier_app_api.modules.hooks.redactor import MOST_HELD
from amplifier_app_api.modules.hooks.registrations import KNOWN_EVENTS
from amplifier_app_api.modules.kernel import ConfigurationError

# Made of parts, so that no scanner takes this file for a leak.
ANTHROPIC = "sk-ant-" + "api03-abcdefghij" + "KLMNOPQRST1234567890"
GITHUB = "ghp_" + "abcdefghijklmnopqrst" + "uvwxyzABCDEF012345"
JWT = "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0." + "abcDEF-123"
PEM = "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIBOgIBAAJB\nAKj34GkxFhD9\n-----END RSA PRIVATE" + " KEY-----"
CARD = "4111 1111 " + "1111 1111"

EXAMPLES = {
    f"my key is {ANTHROPIC}, keep it": "my key is [redacted:anthropic-key], keep it",
    f"git clone https://{GITHUB}@github.com/a/b": "git clone https://[redacted:github-token]@github.com/a/b",
    "AKIA" + "IOSFODNN7EXAMPLE.": "[redacted:aws-key].",
    f"({JWT})": "([redacted:jwt])",
    f"before\n{PEM}\nafter": "before\n[redacted:private-key]\nafter",
    "postgres://user:p@ss-w0rd@db:5432/app": "postgres://user:[redacted:password]@db:5432/app",
    "DB_PASSWORD=hunter2": "DB_PASSWORD=[redacted:secret]",
    "password = password = hunter2": "password = password = [redacted:secret]",
    '{"api_key": "abcdEFGH1234"}': '{"api_key": "[redacted:secret]"}',
    r"{\"client_secret\": \"abcdEFGH1234\"}": r"{\"client_secret\": \"[redacted:secret]\"}",
    "Authorization: Bearer abcdefgh12345678": "Authorization: Bearer [redacted:token]",
    "Write to bob.b+x@mail.example.com.": "Write to [redacted:email].",
    "Call +49 30 1234567 now": "Call [redacted:phone] now",
    f"Pay with {CARD} 5 times": "Pay with [redacted:card] 5 times",
    "To DE89 3704 0044 0532 0130 00 AND more": "To [redacted:iban] AND more",
}
HARMLESS = (
    "max_tokens: 4096",
    "The password: required, at least eight letters",
    "token = os.environ['TOKEN']",
    "api_key: ${ANTHROPIC_API_KEY}",
    "risk-management-of-something-very-long",
    "7fbcf9e4-a2eb-487c-b35e-8e8c831cae0d",
    "4111 1111 1111 1112",
    "2026-08-20T10:00:00Z 10.0.0.1 v1.2.3",
    "https://example.com:8080/path@here",
)


@pytest.mark.parametrize("text", EXAMPLES)
def test_what_is_secret_is_masked_and_nothing_beside_it(text: str) -> None:
    assert make_redactor({}).redact(text) == EXAMPLES[text]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert make_redactor({}).redact(text) == text


@pytest.mark.parametrize("text", EXAMPLES)
def test_masking_twice_is_masking_once(text: str) -> None:
    redactor = make_redactor({})

    assert redactor.redact(redactor.redact(text)) == redactor.redact(text)


PARTS = st.sampled_from(
    [
        *EXAMPLES,
        "-----BEGIN",
        "-----BEGIN RSA PRIVATE KEY-----",
        "4111",
        "1111 1111",
        "api",
        "key",
        "password",
        "=",
        "x1y2z3",
    ]
)
WHITE = st.sampled_from(["", " ", "  ", "\n", "\t"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(PARTS, WHITE), max_size=8), st.integers(1, 40), st.integers())
def test_a_text_in_pieces_is_masked_as_the_whole_is(parts: list[tuple[str, str]], longest: int, seed: int) -> None:
    redactor = make_redactor({"custom": {"employee": r"EMP-\d{6}"}})
    text = "".join(part + white for part, white in parts)
    stream, cuts, at, shown = redactor.stream(), random.Random(seed), 0, ""
    while at < len(text):
        size = cuts.randint(1, longest)
        shown += stream.feed(text[at : at + size])
        at += size

    assert shown + stream.finish() == redactor.redact(text)


def test_a_stream_shows_words_as_they_are_finished() -> None:
    stream = make_redactor({}).stream()

    assert [stream.feed(piece) for piece in ("Hel", "lo the", "re ", "you")] == ["", "Hello ", "there ", ""]
    assert stream.finish() == "you"


@pytest.mark.parametrize("begin", [PEM[:31] + "\n", "token=a1b2c3", ANTHROPIC, JWT])
def test_what_is_longer_than_may_be_held_back_is_masked_all_the_same(begin: str) -> None:
    stream = make_redactor({}).stream()
    secret = "Zz9Yy8Xx7Ww6" * MOST_HELD

    shown = stream.feed(begin)
    for at in range(0, len(secret), 100):
        shown += stream.feed(secret[at : at + 100])
    ending = "\n-----END RSA PRIVATE" + " KEY-----" if "BEGIN" in begin else ""
    shown += stream.feed(f"{ending} and on") + stream.finish()

    assert "Yy8" not in shown
    assert shown.count("[redacted:") == 1
    assert shown.endswith(" and on")


def test_a_long_word_that_is_no_secret_comes_out_whole() -> None:
    stream, word = make_redactor({}).stream(), "abcdefghij" * MOST_HELD

    shown = "".join(stream.feed(word[at : at + 100]) for at in range(0, len(word), 100))

    assert shown + stream.finish() == word


def test_members_whose_name_says_it_are_masked_and_named_ones_are_kept() -> None:
    redactor = make_redactor({"allowlist": ["contact"], "allow_texts": ["noreply@example.com"]})

    masked = redactor.redact_value(
        {"password": "plain", "contact": "a@b.example", "max_tokens": 5, "say": ["noreply@example.com", "x@y.example"]}
    )

    assert masked == {
        "password": "[redacted:secret]",
        "contact": "a@b.example",
        "max_tokens": 5,
        "say": ["noreply@example.com", "[redacted:email]"],
    }


def test_names_are_texts_too_and_a_list_of_secrets_is_each_of_them() -> None:
    other = GITHUB[:-1] + "x"
    masked = make_redactor({"allow_texts": ["example"]}).redact_value(
        {GITHUB: 1, other: 2, 7: 3, "passwords": ["plain", "", "example", 5, {"note": GITHUB}]}
    )

    assert masked == {
        "[redacted:github-token]": 1,
        "[redacted:github-token]'": 2,
        7: 3,
        "passwords": ["[redacted:secret]", "", "example", 5, {"note": "[redacted:github-token]"}],
    }


def test_only_the_rules_that_are_named_apply() -> None:
    assert make_redactor({"rules": ["pii-basic"]}).redact(f"{GITHUB} a@b.example") == f"{GITHUB} [redacted:email]"


@pytest.mark.parametrize(
    ("pattern", "text", "masked"),
    [
        (r"EMP-\d{6}", "EMP-123456 and XEMP-123456", "[redacted:own] and XEMP-123456"),
        (r"(?i)acct_[a-z0-9]{4,10}", "ACCT_ab12", "[redacted:own]"),
        (r"(?:alpha|beta)-\d+", "beta-17 gamma-17", "[redacted:own] gamma-17"),
        (r"X[+*]?\d{2}", "X+12", "[redacted:own]"),
    ],
)
def test_a_bundle_may_bring_patterns(pattern: str, text: str, masked: str) -> None:
    assert make_redactor({"custom": {"own": pattern}}).redact(text) == masked


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"(a+)+b", r"(?:a+)+b", r"(?:a|aa){5}", r"a*a*a*b", r"\w+x", r".*", r"[^ ]+", r"(?=a)", r"\1", r"a++", r"x*"),
        *(
            r"a{300}",
            r"a{1,999}",
            r"\s+",
            "a b",
            "é",
            r"(?:a",
            r"a)",
            "[a",
            "[]",
            "a{",
            r"\d{200}\w{200}",
            "",
            "a" * 501,
        ),
        "(?:a|b)" * 7,
    ],
)
def test_a_pattern_that_could_take_long_is_refused(pattern: str) -> None:
    with pytest.raises(UnsafePattern):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "options",
    [
        {"rules": ["everything"]},
        {"custom": ["x"]},
        {"custom": {"a b": "x"}},
        {"custom": {"a": "(x+)+"}},
        {"custom": {"a": 1}},
    ],
)
async def test_options_that_cannot_be_followed_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="hooks-redaction"):
        await load_mount("hooks-redaction")(MockCoordinator(), options)


async def test_events_are_masked_for_whoever_listens_later(open_chat: Any) -> None:
    chat = await open_chat(replies=[f"I found {GITHUB} there"], hooks=["hooks-redaction"])

    answer = await chat.say("hello")

    assert answer == f"I found {GITHUB} there"  # the loop's own answer: the host masks it with the redactor
    told = [event for event, data in chat.events if GITHUB in str(data) and "stream" not in event]
    assert told == []
    assert "[redacted:github-token]" in str(chat.of("content_block:end"))


async def test_a_loop_gets_what_it_acts_on_as_it_is_unless_told_otherwise(open_chat: Any) -> None:
    plain = await open_chat(replies=["ok"], hooks=["hooks-redaction"])
    masked = await open_chat(replies=["ok"], hooks=[{"module": "hooks-redaction", "config": {"skip_events": []}}])

    for chat in (plain, masked):
        await chat.say(f"use {GITHUB}")

    assert (await plain.history())[0]["content"] == f"use {GITHUB}"
    assert (await masked.history())[0]["content"] == "use [redacted:github-token]"


async def test_an_event_that_cannot_be_masked_goes_on_without_its_texts() -> None:
    coordinator = MockCoordinator()
    await load_mount("hooks-redaction")(coordinator, {})
    deep: Any = f"{GITHUB}"
    for _ in range(80):
        deep = [deep]

    result = await coordinator.hooks.emit("llm:request", {"messages": deep, "provider": "p"})

    assert GITHUB not in str(result.data)


async def test_the_host_finds_the_redactor_and_nothing_is_left_when_it_is_closed() -> None:
    coordinator = MockCoordinator()
    close = await load_mount("hooks-redaction")(coordinator, {})
    redactor = coordinator.get_capability("session.redactor")
    assert redactor.redact("a@b.example") == "[redacted:email]"
    assert redactor.kinds == ("secrets", "pii-basic")
    assert set(KNOWN_EVENTS) - set(coordinator.hooks.list_handlers()) == {"prompt:submit", "tool:pre", "tool:post"}

    close()

    assert coordinator.get_capability("session.redactor") is None
    assert not any(coordinator.hooks.list_handlers().values())


@pytest.mark.parametrize(
    "text",
    [
        "eyJ" * 60_000,
        "://a:" * 40_000,
        "a@" * 90_000,
        "4 " * 90_000,
        "key=a1" * 30_000,
        "-----BEGIN " * 18_000,
        "-sk-" * 45_000,
    ],
)
def test_a_text_made_to_take_long_takes_no_longer_in_proportion(text: str) -> None:
    redactor = make_redactor({})

    assert redactor.redact(text).count("") > 1  # it ends; a quadratic one would take minutes
