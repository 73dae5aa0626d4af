"""Texts that are secrets, by how they look: where they begin and end, and of which kind they are.

Every function reads a text once, from left to right. A pattern with an open end has nothing behind it that could
fail, and what stands in front of one is bounded, so that no text takes more than time in proportion to its length.
Nothing but a private key reaches over white space further than `SPACED` characters.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """Something secret in a text. `since` is where what shows that it is one begins: a name, a scheme."""

    start: int
    end: int
    kind: str
    since: int


SPACED = 64

PEM_BEGIN = "-----BEGIN"
_PEM_HEADER = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_HEADER_BEGUN = re.compile(r"-----BEGIN(?: [A-Z0-9 ]{0,60}-{0,5})?")
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,60}-----")

_BEFORE = r"(?<![A-Za-z0-9])"
_AFTER = r"(?![A-Za-z0-9])"

_KEYS: tuple[tuple[str, str, re.Pattern[str]], ...] = tuple(
    (kind, needle, re.compile(_BEFORE + pattern, re.ASCII))
    for kind, needle, pattern in (
        ("anthropic-key", "sk-ant-", r"sk-ant-[\w-]{16,}"),
        ("api-key", "sk-", r"sk-(?=[\w-]{0,30}\d)[\w-]{20,}"),
        ("groq-key", "gsk_", r"gsk_[A-Za-z0-9]{30,}"),
        ("xai-key", "xai-", r"xai-[A-Za-z0-9]{30,}"),
        ("perplexity-key", "pplx-", r"pplx-[A-Za-z0-9]{30,}"),
        ("huggingface-token", "hf_", r"hf_[A-Za-z0-9]{30,}"),
        ("aws-key", "AKIA", r"AKIA[A-Z0-9]{16}" + _AFTER),
        ("aws-key", "ASIA", r"ASIA[A-Z0-9]{16}" + _AFTER),
        ("google-key", "AIza", r"AIza[\w-]{35}"),
        ("google-token", "ya29.", r"ya29\.[\w-]{20,}"),
        ("google-secret", "GOCSPX-", r"GOCSPX-[\w-]{20,}"),
        ("github-token", "gh", r"gh[pousr]_[A-Za-z0-9]{30,}"),
        ("github-token", "github_pat_", r"github_pat_\w{22,}"),
        ("gitlab-token", "gl", r"gl(?:pat|ptt|rt|dt|ft|soat|cbt|imt|agent)-[\w-]{20,}"),
        ("slack-token", "xox", r"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}"),
        ("slack-token", "xapp-", r"xapp-\d-[A-Za-z0-9-]{10,}"),
        ("slack-webhook", "hooks.slack.com/", r"hooks\.slack\.com/(?:services|workflows|triggers)/[\w/]{16,}"),
        ("discord-webhook", "/api/webhooks/", r"discord(?:app)?\.com/api/webhooks/\d{10,25}/[\w-]{30,}"),
        ("telegram-token", ":AA", r"\d{8,10}:AA[\w-]{30,}"),
        ("stripe-key", "_live_", r"(?:sk|rk|pk)_live_[A-Za-z0-9]{16,}"),
        ("stripe-key", "_test_", r"(?:sk|rk|pk)_test_[A-Za-z0-9]{16,}"),
        ("stripe-secret", "whsec_", r"whsec_[A-Za-z0-9+/=]{24,}"),
        ("sendgrid-key", "SG.", r"SG\.[\w-]{16,64}\.[\w-]{16,}"),
        ("twilio-key", "SK", r"SK[0-9a-f]{32}" + _AFTER),
        ("mailgun-key", "key-", r"key-[0-9a-f]{32}" + _AFTER),
        ("npm-token", "npm_", r"npm_[A-Za-z0-9]{30,}"),
        ("pypi-token", "pypi-", r"pypi-[\w-]{40,}"),
        ("digitalocean-token", "_v1_", r"do[opr]_v1_[a-f0-9]{40,}"),
        ("databricks-token", "dapi", r"dapi[a-f0-9]{32}"),
        ("shopify-token", "shp", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32,}"),
        ("newrelic-key", "NRAK-", r"NRAK-[A-Z0-9]{27}"),
        ("linear-key", "lin_api_", r"lin_api_[A-Za-z0-9]{32,}"),
        ("notion-token", "ntn_", r"ntn_[A-Za-z0-9]{40,}"),
        ("vault-token", "hv", r"hv[sbr]\.[\w-]{20,}"),
        ("terraform-token", ".atlasv1.", r"[A-Za-z0-9]{14}\.atlasv1\.[\w-]{40,}"),
        ("age-key", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[0-9A-Z]{50,}"),
        ("azure-key", "AccountKey=", r"AccountKey=[A-Za-z0-9+/=]{40,}"),
        ("azure-key", "SharedAccessKey=", r"SharedAccessKey=[A-Za-z0-9+/=]{30,}"),
    )
)

# Only where a run of such characters begins, or "eyJeyJ…" would be read once for each of its letters.
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?", re.ASCII)

_URL_LOGIN = re.compile(r"://[^\s:/?#@'\"<>\[]{0,128}:([^\s'\"<>/]{1,256})@", re.ASCII)

SECRET_STEMS = ("key", "token", "secret", "passw", "pwd", "passphrase", "credential", "authoriz", "bearer", "basic")
_NAME = (
    r"(?:api|access|auth|secret|private|client|encryption|signing|account|master|service)[_ .-]?(?:key|token|secret)"
    r"|passw(?:or)?d|passwd|pwd|passphrase|secret|token|credentials?"
)
_ASSIGNED = re.compile(
    rf"(?:{_NAME})[\w-]{{0,20}}\\{{0,2}}[\"'`]?[\s]{{0,4}}(?:=>|:=|[:=])[\s]{{0,4}}\\{{0,2}}[\"'`]?"
    # Looked at only: what is no secret may be the name of one.
    r"(?=([^\s\"'`,;\\\[\](){}<>]{6,256}))",
    re.ASCII | re.IGNORECASE,
)
_REST_OF_VALUE = re.compile(r"[^\s\"'`,;\\\[\](){}<>]*", re.ASCII)
_COUNTED = re.compile(r"tokens?[\w-]*(?:count|limit|budget|used|usage|length|size)|tokens\b", re.ASCII | re.IGNORECASE)
_BEARER = re.compile(_BEFORE + r"(?:bearer|basic)[ \t]{1,4}([\w.~+/-]{12,}={0,2})", re.ASCII | re.IGNORECASE)

SECRET_NAME = re.compile(
    r"api[_-]?key|token|secret|passw(?:or)?d|passwd|passphrase|credential|authorization|private[_-]?key|access[_-]?key",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(r"max_.*tokens|.*_tokens|tokens|token_budget", re.IGNORECASE)


def names_secret(name: str) -> bool:
    """Whether a member of this name holds a secret."""
    return SECRET_NAME.search(name) is not None and _NOT_SECRET.fullmatch(name) is None


def secrets(text: str) -> Iterator[Span]:
    """Keys and tokens in well-known forms, private keys, passwords in addresses, and what is assigned as a secret."""
    for kind, needle, pattern in _KEYS:
        if needle in text:
            for match in pattern.finditer(text):
                yield Span(match.start(), match.end(), kind, match.start())
    if "eyJ" in text:
        for match in _JWT.finditer(text):
            yield Span(match.start(), match.end(), "jwt", match.start())
    if PEM_BEGIN in text:
        yield from _private_keys(text)
    if "://" in text:
        for match in _URL_LOGIN.finditer(text):
            yield Span(match.start(1), match.end(1), "password", match.start())
    lowered = text.lower()
    if any(stem in lowered for stem in SECRET_STEMS):
        yield from _assigned(text)


def open_private_key(text: str) -> int | None:
    """Where a private key begins of which the end has not come yet, or something that may become one."""
    at = text.rfind(PEM_BEGIN)
    if at < 0:
        return None
    header = _PEM_HEADER.match(text, at)
    if header is not None:
        return None if _PEM_END.search(text, header.end()) else at
    begun = _PEM_HEADER_BEGUN.match(text, at)
    return at if begun is not None and begun.end() == len(text) else None


def end_of_private_key(text: str) -> int | None:
    """Behind the line that ends a key, when it is there."""
    found = _PEM_END.search(text)
    return None if found is None else found.end()


def _private_keys(text: str) -> Iterator[Span]:
    at = text.find(PEM_BEGIN)
    while at >= 0:
        header = _PEM_HEADER.match(text, at)
        if header is None:
            at = text.find(PEM_BEGIN, at + 1)
            continue
        end = _PEM_END.search(text, header.end())
        stop = len(text) if end is None else end.end()  # a key that was cut off is one all the same
        yield Span(at, stop, "private-key", at)
        at = text.find(PEM_BEGIN, stop)


def _assigned(text: str) -> Iterator[Span]:
    behind = 0
    for match in _ASSIGNED.finditer(text):
        if match.start() < behind or _COUNTED.match(text, match.start()) or not _looks_random(match.group(1)):
            continue
        rest = _REST_OF_VALUE.match(text, match.end(1))
        behind = match.end(1) if rest is None else rest.end()
        yield Span(match.start(1), behind, "secret", match.start())
    for match in _BEARER.finditer(text):
        if any(character.isdigit() for character in match.group(1)):
            yield Span(match.start(1), match.end(1), "token", match.start())


def _looks_random(value: str) -> bool:
    """Letters and digits without much repetition, and no reference to a value that is elsewhere."""
    if value[0] in "$%&*|" or "://" in value:
        return False
    if not any(c.isdigit() for c in value) or not any(c.isalpha() for c in value):
        return False
    return _entropy(value) >= 2.3


def _entropy(text: str) -> float:
    """Bits for each character."""
    size = len(text)
    return -sum(count / size * math.log2(count / size) for count in Counter(text).values())
