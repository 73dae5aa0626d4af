"""What tells who somebody is: addresses, phone numbers, cards, accounts.

As in `redaction_secrets.py`, nothing reaches over white space further than `SPACED` characters, and every pattern
is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from amplifier_app_api.modules.hooks.redaction_secrets import Span

_DOMAIN = re.compile(
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])", re.ASCII
)
_LOCAL = re.compile(r"[A-Za-z0-9._%+-]{1,64}\Z", re.ASCII)

_IN_ADDRESS = re.compile(r"://[^\s/?#]{0,200}\Z", re.ASCII)

_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}|\(\d{3}\) ?\d{3}-\d{4}|\d{3}([.-])\d{3}\1\d{4})(?![\w-])",
    re.ASCII,
)

_CARD = re.compile(
    r"(?<![\w.])(?:[2-6]\d{12,18}|[2-6]\d{3}([ -])\d{4}\1\d{4}\1\d{1,7}|3[47]\d\d([ -])\d{6}\2\d{5})(?![A-Za-z0-9])",
    re.ASCII,
)
_CARD_NUMBERS = re.compile(r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|6(?:011|5\d\d)\d{12}", re.ASCII)

_IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Z]{2})\d{2}(?=[ A-Z0-9])", re.ASCII)
_IBAN_LENGTHS: Mapping[str, int] = MappingProxyType(
    {
        country: length
        for length, countries in {
            15: "NO",
            16: "BE",
            18: "DK FI FO GL NL",
            19: "MK SI",
            20: "AT BA EE KZ LT LU XK",
            21: "CH HR LI LV",
            22: "BG BH CR DE GB GE IE ME RS",
            23: "AE GI IL IQ",
            24: "AD CZ ES MD PK RO SA SE SK TN VG",
            25: "PT",
            26: "IS TR",
            27: "FR GR IT MC MR SM",
            28: "AL AZ CY DO GT HU LB PL",
            29: "BR EG PS QA UA",
            30: "JO KW MU",
            31: "MT",
        }.items()
        for country in countries.split()
    }
)


def people(text: str) -> Iterator[Span]:
    """E-mail addresses, phone numbers, card numbers and bank accounts."""
    if "@" in text:
        yield from _emails(text)
    yield from _cards(text)
    yield from _accounts(text)
    for match in _PHONE.finditer(text):
        if 8 <= sum(character.isdigit() for character in match.group()) <= 15:
            yield Span(match.start(), match.end(), "phone", match.start())


def _emails(text: str) -> Iterator[Span]:
    for match in _DOMAIN.finditer(text):
        local = _LOCAL.search(text[max(0, match.start() - 64) : match.start()])
        if local is None:
            continue
        start = match.start() - len(local.group())
        if not _IN_ADDRESS.search(text[max(0, start - 200) : start]):  # else it is somebody's name on a server
            yield Span(start, match.end(), "email", start)


def _cards(text: str) -> Iterator[Span]:
    for match in _CARD.finditer(text):
        digits = match.group().replace(" ", "").replace("-", "")
        if _CARD_NUMBERS.fullmatch(digits) and _luhn(digits):
            yield Span(match.start(), match.end(), "card", match.start())


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        total += digit if place % 2 == 0 else digit * 2 - 9 * (digit > 4)
    return total % 10 == 0


def _accounts(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match.group(1))
        end = None if length is None else _end_of_account(text, match.start(), length)
        if end is not None:
            yield Span(match.start(), end, "iban", match.start())


def _end_of_account(text: str, start: int, length: int) -> int | None:
    """Behind `length` letters and digits in groups, when they are an account's."""
    taken: list[str] = []
    at = start
    while len(taken) < length:
        character = text[at : at + 1]
        if character == " " and text[at - 1] != " ":
            at += 1
            continue
        if not character.isascii() or not character.isalnum():
            return None
        taken.append(character)
        at += 1
    if text[at : at + 1].isalnum():
        return None
    account = "".join(taken).upper()
    number = "".join(str(int(character, 36)) for character in account[4:] + account[:4])
    return at if int(number) % 97 == 1 else None
