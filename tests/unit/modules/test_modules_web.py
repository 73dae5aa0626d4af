import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from amplifier_core.llm_errors import ConfigurationError
from amplifier_core.models import ToolResult
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.web_address import read_address
from web_double import WebDouble, answer, page, web_double


@pytest.fixture
async def web() -> AsyncIterator[WebDouble]:
    async with web_double() as double:
        yield double


class Tools:
    def __init__(self, coordinator: MockCoordinator) -> None:
        self._coordinator = coordinator

    async def fetch(self, url: str, **arguments: Any) -> ToolResult:
        return await self._coordinator.get("tools", "web_fetch").execute({"url": url, **arguments})

    async def search(self, query: str, **arguments: Any) -> ToolResult:
        return await self._coordinator.get("tools", "web_search").execute({"query": query, **arguments})


async def tools(options: dict[str, Any] | None = None, *, private: bool | None = True) -> Tools:
    coordinator = MockCoordinator()
    if private is not None:
        coordinator.register_capability("host.private_addresses", private)
    await load_mount("tool-web")(coordinator, options or {})
    return Tools(coordinator)


async def test_a_page_is_read_as_text(web: WebDouble) -> None:
    web.answers["/a"] = page("<title>A &amp; B</title><h1>Hello</h1><p>A <a href='/b'>link</a>.</p><script>x</script>")

    result = await (await tools()).fetch(f"{web.url}/a")

    assert result.output == {
        "url": f"{web.url}/a",
        "content_type": "text/html",
        "title": "A & B",
        "content": f"# Hello\n\nA [link]({web.url}/b).",
        "characters": len(f"# Hello\n\nA [link]({web.url}/b)."),
        "complete": True,
    }
    assert "\r\nAccept-Encoding: gzip\r\n" in web.asked[0]
    assert f"\r\nHost: 127.0.0.1:{web.port}\r\n" in web.asked[0]


async def test_a_long_page_is_read_in_parts(web: WebDouble) -> None:
    web.answers["/"] = answer(b"0123456789", content_type="text/plain")
    web_tools = await tools()

    part = (await web_tools.fetch(web.url, limit=4, offset=2)).output
    last = (await web_tools.fetch(web.url, limit=4, offset=6)).output

    assert (part["content"], part["next_offset"]) == ("2345", 6)
    assert last["content"] == "6789"
    assert "next_offset" not in last


async def test_redirects_are_followed_to_the_page(web: WebDouble) -> None:
    web.answers["/a"] = answer(status="302 Found", location="/b?c=d#e")
    web.answers["/b?c=d"] = page("there")

    result = await (await tools()).fetch(f"{web.url}/a")

    assert (result.output["url"], result.output["content"]) == (f"{web.url}/b?c=d", "there")


async def test_packed_content_is_unpacked(web: WebDouble) -> None:
    web.answers["/"] = answer(gzip.compress(b"hello"), content_type="text/plain", content_encoding="gzip")

    assert (await (await tools()).fetch(web.url)).output["content"] == "hello"


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain; charset=iso-8859-1", "grün".encode("latin-1"), "grün"),
        ("text/html", b"<meta charset='windows-1252'>caf\xe9", "café"),
        ("text/plain; charset=punycode", b"gr\xc3\xbcn", "grün"),
        ("text/plain; charset=nonsense", b"gr\xc3\xbcn", "grün"),
        ("application/vnd.api+json", b'{"a": 1}', '{"a": 1}'),
    ],
)
async def test_text_is_read_in_its_encoding(web: WebDouble, content_type: str, body: bytes, text: str) -> None:
    web.answers["/"] = answer(body, content_type=content_type)

    assert (await (await tools()).fetch(web.url)).output["content"] == text


async def test_what_is_no_text_is_told_apart(web: WebDouble) -> None:
    web.answers["/a.png"] = answer(b"\x89PNG", content_type="image/png")
    web_tools = await tools()

    assert (await web_tools.fetch(f"{web.url}/a.png")).output == (
        f"{web.url}/a.png is image/png, which cannot be read as text"
    )
    assert (await web_tools.fetch(f"{web.url}/none")).output == f"{web.url}/none answered 404"


async def test_private_addresses_are_refused_unless_the_host_allows_them(web: WebDouble) -> None:
    web.answers["/"] = page("secret")

    for private in (False, None):
        result = await (await tools(private=private)).fetch(web.url)
        assert result.output == "The host 127.0.0.1 has an address that is not public; this server does not go there"
    assert web.asked == []


async def test_domains_can_be_allowed_and_blocked(web: WebDouble) -> None:
    web.answers["/a"] = answer(status="302 Found", location="http://other.test/")
    allowed = await tools({"allowed_domains": ["127.0.0.1", "*.example.com"]})
    blocked = await tools({"blocked_domains": ["127.0.0.1"]})

    assert (await allowed.fetch(f"{web.url}/a")).output == "The host other.test is not one that may be fetched from"
    assert (await blocked.fetch(f"{web.url}/a")).output == "The host 127.0.0.1 is not one that may be fetched from"


@pytest.mark.parametrize("written", ["Bücher.example", "*.bücher.example", "xn--bcher-kva.example", "bücher.example."])
async def test_a_domain_is_the_same_however_it_is_written(written: str) -> None:
    blocked = await tools({"blocked_domains": [written]})

    for host in ("bücher.example", "xn--bcher-kva.example", "www.BÜCHER.example."):
        result = await blocked.fetch(f"https://{host}/")
        assert "is not one that may be fetched from" in str(result.output)


async def test_what_is_no_domain_cannot_be_blocked() -> None:
    with pytest.raises(ConfigurationError, match="option 'blocked_domains' must be a list of domains"):
        await tools({"blocked_domains": ["https://example.com/a"]})


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://Example.COM", "https://example.com/"),
        ("http://example.com:80/a b".replace(" ", "%20"), "http://example.com/a%20b"),
        ("https://example.com:8443/ü?q=ü#x", "https://example.com:8443/%C3%BC?q=%C3%BC"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
        (" https://example.com/a%2Fb ", "https://example.com/a%2Fb"),
    ],
)
def test_an_address_is_read(text: str, url: str) -> None:
    assert read_address(text).url == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "file:///etc/passwd",
        "gopher://example.com/",
        "http://",
        "http:///path",
        "http://user:word@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://exam ple.com/",
        "http://example.com/\r\nX: y",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://[::1/",
        "http://a..b/",
        "http://exa%6dple.com/",
        "https://" + "a" * 9000,
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        read_address(text)


SEARXNG = {"results": [{"title": "One", "url": "https://one.test/", "content": "first"}, {"title": "no address"}]}
BRAVE = {"web": {"results": [{"title": "One", "url": "https://one.test/", "description": "first"}]}}
FOUND = [{"title": "One", "url": "https://one.test/", "snippet": "first"}]


async def test_searxng_is_asked(web: WebDouble) -> None:
    web.answers["/searx/search?q=what+is&format=json"] = answer(json.dumps(SEARXNG).encode())
    web_tools = await tools({"search_engine": "searxng", "base_url": f"{web.url}/searx/"})

    result = await web_tools.search("what is")

    assert result.output == {"query": "what is", "results": FOUND, "count": 1, "provider": "searxng"}


async def test_brave_is_asked_with_its_key(web: WebDouble) -> None:
    web.answers["/res/v1/web/search?q=what&count=3"] = answer(json.dumps(BRAVE).encode())
    web_tools = await tools({"search_engine": "brave", "base_url": web.url, "api_key": "key-1"})

    assert (await web_tools.search("what", max_results=3)).output["results"] == FOUND
    assert "\r\nX-Subscription-Token: key-1\r\n" in web.asked[0]


async def test_tavily_is_asked_with_its_key(web: WebDouble) -> None:
    said: list[bytes] = []

    async def handle(reader: Any, writer: Any) -> None:
        said.append(await reader.read(100))
        writer.write(answer(json.dumps(SEARXNG).encode()))

    web.answers["/search"] = handle
    web_tools = await tools({"search_engine": "tavily", "base_url": web.url, "api_key": "key-1"})

    assert (await web_tools.search("what")).output["results"] == FOUND
    assert json.loads(said[0]) == {"query": "what", "max_results": 5}
    assert "\r\nAuthorization: Bearer key-1\r\n" in web.asked[0]


async def test_without_a_search_service_the_tool_says_how_to_have_one() -> None:
    result = await (await tools()).search("what")

    assert (result.success, result.output) == (
        False,
        "No search service is set up. Whoever writes the config sets search_engine of tool-web to one of searxng, "
        "brave, tavily, with its base_url or api_key",
    )


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (answer(status="401 No"), "The search service answered 401: its key or its settings do not allow the request"),
        (answer(status="429 No"), "The search service answered 429: it is asked too often"),
        (answer(status="302 Found", location="http://elsewhere.test/"), "The search service answered 302"),
        (answer(b"<html>"), "The search service answered something that is not its JSON"),
        (answer(b"[" * 100_000), "The search service answered something that is not its JSON"),
    ],
)
async def test_a_search_that_fails_is_told(web: WebDouble, response: bytes, problem: str) -> None:
    web.answers["/res/v1/web/search?q=what&count=5"] = response
    web_tools = await tools({"search_engine": "brave", "base_url": web.url, "api_key": "key-1"})

    assert (await web_tools.search("what")).output == problem
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"search_engine": "altavista"}, "option 'search_engine' must be one of: none, searxng, brave, tavily"),
        ({"search_engine": "searxng"}, "option 'base_url' must be the address of the searxng server"),
        ({"search_engine": "searxng", "base_url": "ftp://a"}, "option 'base_url' must be an http or https address"),
        ({"search_engine": "brave"}, "option 'api_key' is missing: brave needs one"),
        ({"search_engine": "brave", "api_key": "a\nb"}, "option 'api_key' holds characters that no key has"),
    ],
)
async def test_options_that_are_wrong_are_told(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        await tools(options)
