"""Web tools against names, servers and pages that want to do harm."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator

import pytest

from amplifier_app_api.modules.tools.addresses import AddressBook
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.web_address import read_address
from amplifier_app_api.modules.tools.web_client import Page, WebClient, WebLimits
from amplifier_app_api.modules.tools.web_text import text_of
from web_double import Names, Network, WebDouble, answer, page, web_double

PUBLIC = "93.184.216.34"
NOT_PUBLIC = "an address that is not public"


@pytest.fixture
async def web() -> AsyncIterator[WebDouble]:
    async with web_double() as double:
        yield double


class Asking:
    """A client whose names are the test's, and whose connections all lead to the double."""

    def __init__(self, web: WebDouble, names: Names, limits: WebLimits | None = None) -> None:
        self.network = Network(web)
        self._client = WebClient(limits or WebLimits(), AddressBook(resolver=names), network=self.network)

    async def get(self, url: str) -> Page:
        return await self._client.get(read_address(url))


async def test_the_address_that_was_checked_is_the_one_that_is_dialled(web: WebDouble) -> None:
    """A name server that changes its mind after the check is not asked again."""
    web.answers["/"] = page("hello")
    names = Names(rebind_test=[[PUBLIC], ["127.0.0.1"]])
    asking = Asking(web, names)

    assert (await asking.get("http://rebind.test/")).body == b"hello"
    assert (names.asked, asking.network.dialled) == (["rebind.test"], [(PUBLIC, 80)])

    with pytest.raises(Refused, match=NOT_PUBLIC):
        await asking.get("http://rebind.test/")
    assert asking.network.dialled == [(PUBLIC, 80)]


async def test_a_name_that_becomes_private_between_two_steps_is_refused(web: WebDouble) -> None:
    web.answers["/"] = answer(status="302 Found", location="/again")
    names = Names(rebind_test=[[PUBLIC], ["169.254.169.254"]])
    asking = Asking(web, names)

    with pytest.raises(Refused, match=NOT_PUBLIC):
        await asking.get("http://rebind.test/")
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:8765/configs",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127。0。0。1/",
        "http://１２７.０.０.１/",
        "//127.0.0.1/",
        "http://private.test/",
    ],
)
async def test_no_redirect_leads_to_a_private_address(web: WebDouble, location: str) -> None:
    web.answers["/"] = answer(status="302 Found", location=location.encode().decode("latin-1"))
    private = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "2130706433", "0x7f.1"]
    known = {address.replace(".", "_"): ["127.0.0.1"] for address in private}
    asking = Asking(web, Names(public_test=[PUBLIC], private_test=["10.0.0.1"], **known))

    with pytest.raises(Refused):
        await asking.get("http://public.test/")
    assert asking.network.dialled == [(PUBLIC, 80)]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://x/", "http://u:p@public.test/", "http://[", ""])
async def test_a_redirect_to_something_else_is_refused(web: WebDouble, location: str) -> None:
    web.answers["/"] = answer(status="302 Found", location=location)

    with pytest.raises(Refused):
        await Asking(web, Names(public_test=[PUBLIC])).get("http://public.test/")


async def test_redirects_in_a_circle_end(web: WebDouble) -> None:
    web.answers["/"] = answer(status="302 Found", location="/")

    with pytest.raises(Refused, match="redirects more than 5 times"):
        await Asking(web, Names(public_test=[PUBLIC])).get("http://public.test/")
    assert len(web.asked) == 6


async def test_a_body_without_an_end_is_cut(web: WebDouble) -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    web.answers["/"] = endless

    found = await Asking(web, Names(public_test=[PUBLIC]), WebLimits(body=1000)).get("http://public.test/")

    assert (len(found.body), found.complete) == (1000, False)
    async with asyncio.timeout(30):
        await web.left.wait()


async def test_a_small_body_that_stands_for_a_huge_one_is_cut(web: WebDouble) -> None:
    packing = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packing.compress(b"\0" * 2**20) for _ in range(50)) + packing.flush()
    web.answers["/"] = answer(bomb, content_type="text/plain", content_encoding="gzip")

    found = await Asking(web, Names(public_test=[PUBLIC]), WebLimits(body=1000)).get("http://public.test/")

    assert (len(found.body), found.complete) == (1000, False)


@pytest.mark.parametrize(
    ("encoding", "body"), [("br", b"x"), ("gzip, gzip", gzip.compress(gzip.compress(b"x"))), ("gzip", b"not packed")]
)
async def test_what_cannot_be_unpacked_is_refused(web: WebDouble, encoding: str, body: bytes) -> None:
    web.answers["/"] = answer(body, content_type="text/plain", content_encoding=encoding)

    with pytest.raises(Refused):
        await Asking(web, Names(public_test=[PUBLIC])).get("http://public.test/")


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"], ids=["nothing", "a part"])
async def test_a_server_that_goes_silent_is_given_up(web: WebDouble, said: bytes) -> None:
    silent = asyncio.Event()

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await silent.wait()

    web.answers["/"] = handle
    asking = Asking(web, Names(public_test=[PUBLIC]), WebLimits(seconds=0.3))

    with pytest.raises(Refused, match=r"http://public\.test/ did not answer in time"):
        await asking.get("http://public.test/")
    silent.set()


async def test_a_name_server_that_goes_silent_is_given_up(web: WebDouble) -> None:
    async def silent(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    client = WebClient(WebLimits(seconds=0.3), AddressBook(resolver=silent), network=Network(web))

    with pytest.raises(Refused, match="did not answer in time"):
        await client.get(read_address("http://public.test/"))


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 999999 What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: 20\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"",
    ],
    ids=["ssh", "headers", "status", "lengths", "chunks", "nothing"],
)
async def test_what_is_no_http_is_told(web: WebDouble, said: bytes) -> None:
    web.answers["/"] = said

    with pytest.raises(Refused, match="could not be fetched"):
        await Asking(web, Names(public_test=[PUBLIC])).get("http://public.test/")


@pytest.mark.parametrize(
    "piece",
    [
        "<", "<!--", "<!", "<a", "<a ", "<a href='", "<a x=\"", "</", "<script>", "<title>", "<svg>", "</object>",
        "<pre>", "<ul><li>", "&#", "&amp", "<a href=x>", "</a>", "<td>", "\n", "<a b", "<svg><a>",
        "<?", "<p ", "&#x", "<![CDATA[",
    ],
)  # fmt: skip
async def test_a_page_made_to_take_for_ever_does_not(piece: str) -> None:
    """Half a megabyte of each; what took quadratic time would take an hour."""
    size = 500_000
    async with asyncio.timeout(60):
        await asyncio.to_thread(text_of, piece * (size // len(piece)), "http://public.test/")
