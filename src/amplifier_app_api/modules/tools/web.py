"""`tool-web`: pages as text, and searches through a service of one's choice.

Only addresses of the public internet are dialled, whichever name or redirect leads there, unless the host's
capability `host.private_addresses` is true. There is no option for it: configs are written by others than those
who own the network.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from amplifier_app_api.modules.options import Options
from amplifier_app_api.modules.tools.addresses import AddressBook
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.tool import Arguments, Tool
from amplifier_app_api.modules.tools.web_address import ascii_host, read_address
from amplifier_app_api.modules.tools.web_client import DomainRules, Page, WebClient, WebLimits
from amplifier_app_api.modules.tools.web_search import MAX_RESULTS, SERVICES, search
from amplifier_app_api.modules.tools.web_text import PageText, text_of

__amplifier_module_type__ = "tool"

MODULE_ID = "tool-web"
PRIVATE_CAPABILITY = "host.private_addresses"

MAX_QUERY = 1_000
_HTML = ("text/html", "application/xhtml+xml")
_TEXTS = re.compile(r"text/.*|application/(.+\+)?(json|xml|yaml|x-yaml|javascript|ecmascript|toml|x-ndjson)")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_CHARSETS = re.compile(r"(utf-(8|16|32)|ascii|iso8859|iso2022|cp\d|koi8|gb|hz|big5|euc|shift_jis|mac|tis-620|johab).*")
"""The encodings that pages have; Python knows others, some of which take very long."""
_CHARSET_BYTES = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WebOptions:
    """Times in seconds. `default_limit` is how many characters of a page are shown at once, `max_bytes` bounds it."""

    timeout: float
    default_limit: int
    max_bytes: int
    allowed_domains: list[str]
    blocked_domains: list[str]
    extract_text: bool
    search_engine: str
    base_url: str
    api_key: str
    max_results: int

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> WebOptions:
        options = Options(MODULE_ID, values)
        engine = (options.text("search_engine") or "none").lower()
        if engine != "none" and engine not in SERVICES:
            raise options.problem("search_engine", f"must be one of: none, {', '.join(SERVICES)}")
        return cls(
            timeout=options.number("timeout", 20, minimum=0.1),
            default_limit=options.integer("default_limit", 50_000, minimum=100),
            max_bytes=options.integer("max_bytes", 4 * 2**20, minimum=1),
            allowed_domains=_domains(options, "allowed_domains"),
            blocked_domains=_domains(options, "blocked_domains"),
            extract_text=options.flag("extract_text", True),
            search_engine=engine,
            base_url=_base_url(options, engine),
            api_key=_api_key(options, engine),
            max_results=min(options.integer("max_results", 5, minimum=1), MAX_RESULTS),
        )


def _domains(options: Options, name: str) -> list[str]:
    try:
        return [ascii_host(domain.strip().removeprefix("*.").strip(".")) for domain in options.texts(name)]
    except Refused:
        raise options.problem(name, "must be a list of domains") from None


def _base_url(options: Options, engine: str) -> str:
    if engine == "none":
        return ""
    url = options.text("base_url") or SERVICES[engine].base_url
    if url is None:
        raise options.problem("base_url", f"must be the address of the {engine} server")
    try:
        read_address(url)
    except Refused:
        raise options.problem("base_url", "must be an http or https address") from None
    return url


def _api_key(options: Options, engine: str) -> str:
    key = options.text("api_key") or ""
    if not key.isascii() or not key.isprintable():
        raise options.problem("api_key", "holds characters that no key has")
    if engine != "none" and SERVICES[engine].needs_key and not key:
        raise options.problem("api_key", f"is missing: {engine} needs one")
    return key


class WebFetch(Tool):
    name = "web_fetch"
    description = (
        "Fetch a page of the public web and read it as text, with its headings, links and code. Long pages are shown "
        "in parts: read on with offset."
    )
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "url": {"type": "string", "description": "An http or https address"},
            "offset": {"type": "integer", "description": "From which character of the text on to show"},
            "limit": {"type": "integer", "description": "How many characters to show"},
        },
        "required": ["url"],
    }
    read_only = True
    idempotent = True

    def __init__(self, client: WebClient, options: WebOptions) -> None:
        self._client = client
        self._options = options

    async def _run(self, given: Arguments) -> dict[str, Any]:
        address = read_address(given.text("url"))
        offset = given.count("offset", minimum=0) or 0
        limit = min(given.count("limit") or self._options.default_limit, self._options.default_limit)
        page = await self._client.get(address)
        if not 200 <= page.status < 300:
            raise Refused(f"{page.address.url} answered {page.status}")
        read = await asyncio.to_thread(_read, page, self._options.extract_text)
        shown = read.text[offset : offset + limit]
        told: dict[str, Any] = {
            "url": page.address.url,
            "content_type": page.media_type,
            "title": read.title[:300],
            "content": shown,
            "characters": len(read.text),
            "complete": page.complete and read.complete,
        }
        if offset + limit < len(read.text):
            told["next_offset"] = offset + limit
        return told


class WebSearch(Tool):
    name = "web_search"
    description = "Search the web. Answers with titles, addresses and short extracts; read a page with web_fetch."
    input_schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "max_results": {"type": "integer", "description": f"{MAX_RESULTS} at most"},
        },
        "required": ["query"],
    }
    read_only = True
    idempotent = True

    def __init__(self, client: WebClient, options: WebOptions) -> None:
        self._client = client
        self._options = options

    async def _run(self, given: Arguments) -> dict[str, Any]:
        query = given.text("query").strip()
        if not query or len(query) > MAX_QUERY:
            raise Refused(f"query must have 1 to {MAX_QUERY:,} characters")
        options = self._options
        if options.search_engine == "none":
            raise Refused(
                f"No search service is set up. Whoever writes the config sets search_engine of {MODULE_ID} to one of "
                f"{', '.join(SERVICES)}, with its base_url or api_key"
            )
        results = await search(
            self._client,
            options.search_engine,
            base_url=options.base_url,
            api_key=options.api_key,
            query=query,
            count=min(given.count("max_results") or options.max_results, MAX_RESULTS),
        )
        return {"query": query, "results": results, "count": len(results), "provider": options.search_engine}


def _read(page: Page, extract: bool) -> PageText:
    if not _TEXTS.fullmatch(page.media_type or "text/plain") and page.media_type not in _HTML:
        raise Refused(f"{page.address.url} is {page.media_type}, which cannot be read as text")
    content = page.body.decode(_charset(page), "replace")
    return text_of(content, page.address.url) if extract and page.media_type in _HTML else PageText("", content)


def _charset(page: Page) -> str:
    told = _CHARSET.search(page.headers.get("content-type", ""))
    written = _CHARSET_BYTES.search(page.body[:2048]) if page.media_type in _HTML else None
    named = told.group(1) if told else written.group(1).decode("ascii", "replace") if written else "utf-8"
    try:
        known = codecs.lookup(named).name
    except LookupError:
        return "utf-8"
    return known if _CHARSETS.fullmatch(known) else "utf-8"


def client_of(coordinator: Any, options: WebOptions) -> WebClient:
    """A client for one session."""
    private = coordinator.get_capability(PRIVATE_CAPABILITY)
    return WebClient(
        WebLimits(seconds=options.timeout, body=options.max_bytes),
        AddressBook(private_addresses=private is True),
        rules=DomainRules(options.allowed_domains, options.blocked_domains),
    )


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> None:
    options = WebOptions.read(config)
    client = client_of(coordinator, options)
    for tool in (WebFetch(client, options), WebSearch(client, options)):
        await coordinator.mount("tools", tool, name=tool.name)
