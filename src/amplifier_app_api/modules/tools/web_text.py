"""The text of a web page, with what carries meaning: headings, lists, links, tables and code.

A tokenizer of our own: Python's takes quadratic time on some broken pages, and pages come from strangers. This one
looks at each character a bounded number of times, whatever the page holds.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urljoin

_SILENT = frozenset(("script", "style", "noscript", "template", "svg", "iframe", "object", "canvas"))
_RAW = frozenset(("script", "style", "textarea", "title", "iframe", "noscript", "xmp"))
_BLOCKS = frozenset(
    (
        "address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details", "div", "dl", "dt",
        "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr",
        "li", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody", "thead", "tr", "ul",
    )
)  # fmt: skip
_PARAGRAPHS = _BLOCKS - {"br", "li", "tr", "dd", "dt", "tbody", "thead"}
_NAME = re.compile(r"[a-zA-Z][^\s/>]{0,40}")
_ATTRIBUTE = re.compile(r"([^\s\"'<>/=]{1,60})\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'=<>`]{1,4000}))")
_SPACES = re.compile(r"\s+")
MAX_PARTS = 500_000
"""Tags and texts of one page; looking at so many takes seconds."""
_MAX_TAG = 20_000
_MAX_LINK = 2_000


@dataclass(frozen=True, slots=True)
class _Tag:
    name: str
    closing: bool
    attributes: str


@dataclass(frozen=True, slots=True)
class PageText:
    """`complete` is false when the page has more parts than are looked at."""

    title: str
    text: str
    complete: bool = True


def text_of(page: str, base: str) -> PageText:
    """The text of an HTML page; links are completed with `base`."""
    writer = _Writer(base)
    left = MAX_PARTS
    for token in _tokens(page):
        left -= 1
        if not left:
            break
        if isinstance(token, str):
            writer.write(token)
        elif token.closing:
            writer.close(token.name)
        else:
            writer.open(token)
    return PageText(_SPACES.sub(" ", _unescaped(writer.title)).strip(), writer.text(), left > 0)


def _tokens(page: str) -> Iterator[str | _Tag]:
    at = 0
    # Once nothing closes a construct, nothing later in the page does: the search for it is not repeated.
    unclosed: set[str] = set()
    while at < len(page):
        opening = page.find("<", at)
        if opening < 0:
            yield page[at:]
            return
        if opening > at:
            yield page[at:opening]
        if page.startswith("<!--", opening):
            at = _behind(page, "-->", opening + 4, unclosed)
        elif page.startswith(("<!", "<?"), opening):
            at = _behind(page, ">", opening + 2, unclosed)
        else:
            tag, at = _tag_at(page, opening)
            if tag is None:
                yield "<"
                continue
            yield tag
            if not tag.closing and tag.name in _RAW:
                end = _end_of_raw(page, tag.name, at, unclosed)
                yield page[at:end]
                at = end


def _behind(page: str, closer: str, at: int, unclosed: set[str]) -> int:
    end = -1 if closer in unclosed else page.find(closer, at)
    if end < 0:
        unclosed.add(closer)
        return at
    return end + len(closer)


def _end_of_raw(page: str, name: str, at: int, unclosed: set[str]) -> int:
    if name in unclosed:
        return at
    found = re.compile(rf"</{name}\b", re.IGNORECASE).search(page, at)
    if found is None:
        unclosed.add(name)
        return at
    return found.start()


def _tag_at(page: str, opening: int) -> tuple[_Tag | None, int]:
    """The tag that begins here, and where it ends; None when it is only a character."""
    closing = page.startswith("/", opening + 1)
    name = _NAME.match(page, opening + 1 + closing)
    if name is None:
        return None, opening + 1
    at, limit = name.end(), min(len(page), name.end() + _MAX_TAG)
    quote = ""
    while at < limit:
        char = page[at]
        if quote:
            quote = "" if char == quote else quote
        elif char == ">":
            return _Tag(name.group().lower(), closing, page[name.end() : at]), at + 1
        elif char == "<":
            break  # no tag has one, and looking on from each would take too long
        elif char in "\"'" and page[at - 1] == "=":
            quote = char
        at += 1
    return None, opening + 1


def _unescaped(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # the number of a character has thousands of digits
        return text


def _attributes(text: str) -> dict[str, str]:
    return {
        found.group(1).lower(): _unescaped(found.group(2) or found.group(3) or found.group(4) or "")
        for found in _ATTRIBUTE.finditer(text)
    }


class _Writer:
    def __init__(self, base: str) -> None:
        self._base = base
        self._parts: list[str] = []
        self._silent = ""  # the element whose content is left out, and how many of its name are open
        self._silent_depth = 0
        self._raw_title = False
        self._preformatted = 0
        self._links: list[str] = []
        self._lists: list[int | None] = []
        self._room = ""  # what must come before the next text
        self.title = ""

    def text(self) -> str:
        text = "".join(self._parts)
        lines = [line.rstrip() for line in text.split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()

    def write(self, text: str) -> None:
        if self._raw_title:
            self.title = self.title or text
            return
        if self._silent:
            return
        text = _unescaped(text)
        if not self._preformatted:
            text = _SPACES.sub(" ", text)
            if self._room or not self._parts or self._parts[-1].endswith(("\n", " ")):
                text = text.lstrip(" ")
        if text:
            self._put(text)

    def open(self, tag: _Tag) -> None:
        name = tag.name
        if name == "title":
            self._raw_title = True
        elif self._silent:
            self._silent_depth += name == self._silent
        elif name in _SILENT:
            self._silent, self._silent_depth = ("", 0) if tag.attributes.endswith("/") else (name, 1)
        else:
            self._open_shown(name, tag)

    def _open_shown(self, name: str, tag: _Tag) -> None:
        if name in _BLOCKS:
            self._break(2 if name in _PARAGRAPHS else 1)
        if name == "pre":
            self._preformatted += 1
            self._put("```\n")
        elif name in ("ul", "ol"):
            self._lists.append(0 if name == "ol" else None)
        elif name == "li":
            self._put(self._bullet())
        elif len(name) == 2 and name[0] == "h" and name[1] in "123456":
            self._put("#" * int(name[1]) + " ")
        elif name in ("td", "th"):
            self._put(" | " if self._parts and not self._parts[-1].endswith("\n") and not self._room else "")
        elif name == "a":
            self._links.append(self._target(tag))
            self._put("[" if self._links[-1] else "")
        elif name == "img":
            described = _attributes(tag.attributes).get("alt", "").strip()
            self._put(f"[image: {described}]" if described else "")

    def close(self, name: str) -> None:
        if name == "title":
            self._raw_title = False
        elif self._silent:
            self._silent_depth -= name == self._silent
            if not self._silent_depth:
                self._silent = ""
        elif name == "a":
            target = self._links.pop() if self._links else ""
            self._parts.append(f"]({target})" if target else "")
        else:
            self._close_shown(name)

    def _close_shown(self, name: str) -> None:
        if name == "pre" and self._preformatted:
            self._preformatted -= 1
            self._break(1)
            self._put("```")
        elif name in ("ul", "ol") and self._lists:
            self._lists.pop()
        if name in _BLOCKS:
            self._break(2 if name in _PARAGRAPHS else 1)

    def _bullet(self) -> str:
        depth = "  " * max(0, min(len(self._lists), 10) - 1)
        number = self._lists[-1] if self._lists else None
        if number is None:
            return f"{depth}- "
        self._lists[-1] = number + 1
        return f"{depth}{number + 1}. "

    def _target(self, tag: _Tag) -> str:
        target = _attributes(tag.attributes).get("href", "").strip()
        if not target or target.startswith(("#", "javascript:", "data:")) or len(target) > _MAX_LINK:
            return ""
        try:
            return urljoin(self._base, target)
        except ValueError:
            return ""

    def _break(self, lines: int) -> None:
        if self._parts and len(self._room) < lines:
            self._room = "\n" * lines

    def _put(self, text: str) -> None:
        if text:
            if self._room:
                self._parts.append(self._room)
                self._room = ""
            self._parts.append(text)
