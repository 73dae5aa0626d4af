"""Where `web_search` gets its results: one class for each kind of search service.

A service is asked over the same checked network as any page. Its key goes to the service's own address only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode

from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.web_address import read_address
from amplifier_app_api.modules.tools.web_client import Page, WebClient

MAX_RESULTS = 20
_TITLE, _SNIPPET, _LINK = 300, 1_000, 2_000


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to a search service."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class SearchService:
    """`question` makes the request from base URL, key, query and count; `results` finds the list in the answer."""

    base_url: str | None
    needs_key: bool
    question: Callable[[str, str, str, int], Asked]
    results: Callable[[Mapping[str, Any]], Any]
    snippet: str


def _ask_searxng(base: str, key: str, query: str, count: int) -> Asked:
    headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return Asked("GET", f"{base}/search?{urlencode({'q': query, 'format': 'json'})}", headers)


def _ask_brave(base: str, key: str, query: str, count: int) -> Asked:
    headers = {"Accept": "application/json", "X-Subscription-Token": key}
    return Asked("GET", f"{base}/res/v1/web/search?{urlencode({'q': query, 'count': count})}", headers)


def _ask_tavily(base: str, key: str, query: str, count: int) -> Asked:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    return Asked("POST", f"{base}/search", headers, json.dumps({"query": query, "max_results": count}).encode())


SERVICES: Mapping[str, SearchService] = {
    "searxng": SearchService(None, False, _ask_searxng, lambda told: told.get("results"), "content"),
    "brave": SearchService(
        "https://api.search.brave.com",
        True,
        _ask_brave,
        lambda told: cast("Mapping[str, Any]", told.get("web") or {}).get("results"),
        "description",
    ),
    "tavily": SearchService("https://api.tavily.com", True, _ask_tavily, lambda told: told.get("results"), "content"),
}


async def search(
    client: WebClient, engine: str, *, base_url: str, api_key: str, query: str, count: int
) -> list[dict[str, str]]:
    """Results as `{"title", "url", "snippet"}`, `count` at most; `Refused` when the service gives none."""
    service = SERVICES[engine]
    asked = service.question(base_url.rstrip("/"), api_key, query, count)
    page = await client.ask(asked.method, read_address(asked.url), asked.headers, asked.content)
    if page.status != 200:
        raise Refused(f"The search service answered {page.status}{_hint(page.status)}")
    found = service.results(_json(page))
    entries = cast("list[Any]", found) if isinstance(found, list) else []
    results = (_result(entry, service.snippet) for entry in entries if isinstance(entry, dict))
    return [result for result in results if result["url"]][:count]


def _hint(status: int) -> str:
    match status:
        case 401 | 403:
            return ": its key or its settings do not allow the request"
        case 429:
            return ": it is asked too often"
        case _:
            return ""


def _json(page: Page) -> Mapping[str, Any]:
    try:
        told = json.loads(page.body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise Refused("The search service answered something that is not its JSON")
    return cast("Mapping[str, Any]", told)


def _result(entry: Any, snippet: str) -> dict[str, str]:
    values = cast("Mapping[str, Any]", entry)

    def text(name: str, most: int) -> str:
        value = values.get(name)
        return value[:most] if isinstance(value, str) else ""

    return {"title": text("title", _TITLE), "url": text("url", _LINK), "snippet": text(snippet, _SNIPPET)}
