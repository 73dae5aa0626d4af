"""Asking servers on the web: checked addresses only, and bounds on time, size and redirects.

Neither proxies nor credentials of the environment are used, and no cookie is kept.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import httpcore2

from amplifier_app_api.modules.tools.addresses import AddressBook
from amplifier_app_api.modules.tools.refusals import Refused
from amplifier_app_api.modules.tools.web_address import WebAddress

_REDIRECTS = (301, 302, 303, 307, 308)
_CONNECTING = 10.0
_INFLATED = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class WebLimits:
    """`seconds` is everything from the first name looked up to the last byte; `body` is bytes, unpacked."""

    seconds: float = 20.0
    body: int = 4 * 2**20
    redirects: int = 5


@dataclass(frozen=True, slots=True)
class Page:
    """What a server answered. `complete` is false when there was more of it than is taken."""

    address: WebAddress
    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class DomainRules:
    """With `allowed`, only those domains and what is below them; never those that are `blocked`."""

    allowed: list[str] = field(default_factory=list[str])
    blocked: list[str] = field(default_factory=list[str])

    def check(self, address: WebAddress) -> None:
        if address.within(self.blocked) or (self.allowed and not address.within(self.allowed)):
            raise Refused(f"The host {address.host} is not one that may be fetched from")


class CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """Connections to checked addresses. The host's name stays with TLS, so certificates are those of the host."""

    def __init__(self, addresses: AddressBook, network: httpcore2.AsyncNetworkBackend) -> None:
        self._addresses = addresses
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the name is the library's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        last: Exception | None = None
        for address in await self._addresses.lookup(host, port):
            try:
                return await self._network.connect_tcp(address, port, _CONNECTING, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                last = error
        raise last or httpcore2.ConnectError(f"{host} cannot be reached")


class WebClient:
    """`network` makes the connections, to addresses that were checked; tests give their own."""

    def __init__(
        self,
        limits: WebLimits,
        addresses: AddressBook,
        *,
        rules: DomainRules | None = None,
        network: httpcore2.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = limits
        self._rules = rules or DomainRules()
        self._network = CheckedNetwork(addresses, network or _system_network())
        self._tls = tls

    async def get(self, address: WebAddress, headers: Mapping[str, str] | None = None) -> Page:
        """A page, wherever redirects lead; each step is checked like the first."""
        at = address
        async with _bounded(address, self._limits.seconds):
            for _ in range(self._limits.redirects + 1):
                self._rules.check(at)
                page = await self._ask("GET", at, headers or {}, None)
                if page.status not in _REDIRECTS or "location" not in page.headers:
                    return page
                at = at.onward(page.headers["location"])
        raise Refused(f"{address.url} redirects more than {self._limits.redirects} times")

    async def ask(
        self, method: str, address: WebAddress, headers: Mapping[str, str], content: bytes | None = None
    ) -> Page:
        """One request, whose headers may hold a key: redirects are not followed, and no rule of domains applies."""
        async with _bounded(address, self._limits.seconds):
            return await self._ask(method, address, headers, content)

    async def _ask(self, method: str, at: WebAddress, headers: Mapping[str, str], content: bytes | None) -> Page:
        sent = {"Host": at.authority, "User-Agent": "amplifier-app-api", "Accept-Encoding": "gzip", **headers}
        url = httpcore2.URL(scheme=at.scheme, host=at.host, port=at.port, target=at.target)
        tls = self._tls or (_tls() if at.scheme == "https" else None)
        async with (
            httpcore2.AsyncConnectionPool(ssl_context=tls, network_backend=self._network) as pool,
            pool.stream(method, url, headers=list(sent.items()), content=content) as response,
        ):
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            if response.status in _REDIRECTS:
                return Page(at, response.status, found, b"", True)
            body, complete = await self._read(response, found, at)
            return Page(at, response.status, found, body, complete)

    async def _read(self, response: httpcore2.Response, found: Mapping[str, str], at: WebAddress) -> tuple[bytes, bool]:
        most = self._limits.body
        unpack = _unpacking(found.get("content-encoding", ""), at)
        body = bytearray()
        async for chunk in response.aiter_stream():
            for piece in unpack(chunk):
                body += piece
                if len(body) > most:
                    return bytes(body[:most]), False
        return bytes(body), True


@asynccontextmanager
async def _bounded(address: WebAddress, seconds: float) -> AsyncGenerator[None]:
    """A bound on time, and the failures of the network as refusals."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (TimeoutError, httpcore2.TimeoutException):
        raise Refused(f"{address.url} did not answer in time") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, ssl.SSLError, zlib.error) as error:
        raise Refused(f"{address.url} could not be fetched: {str(error) or type(error).__name__}") from None


def _system_network() -> httpcore2.AsyncNetworkBackend:
    return cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpcore2.default_ssl_context()


def _unpacking(encoding: str, at: WebAddress) -> Callable[[bytes], Iterator[bytes]]:
    """How chunks of a body become what they stand for, a little at a time: a small one may stand for very much."""
    named = encoding.strip().lower()
    if named in ("", "identity"):
        return lambda chunk: iter((chunk,))
    if named not in ("gzip", "x-gzip"):
        raise Refused(f"{at.url} answered content that is encoded in a way that was not asked for")
    inflating = zlib.decompressobj(wbits=31)

    def unpack(chunk: bytes) -> Iterator[bytes]:
        while chunk and not inflating.eof:
            yield inflating.decompress(chunk, _INFLATED)
            chunk = inflating.unconsumed_tail

    return unpack
