"""A web server on loopback that answers what a test says, byte for byte, and a network that leads there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpcore2

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LONGEST_WAIT = 30.0


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """A whole response; `content_type="text/html"` becomes a header."""
    named = {"Content-Length": str(len(body)), "Connection": "close"}
    named |= {name.replace("_", "-").title(): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def page(text: str) -> bytes:
    return answer(text.encode(), content_type="text/html; charset=utf-8")


class WebDouble:
    def __init__(self) -> None:
        self.answers: dict[str, bytes | Handler] = {}
        self.asked: list[str] = []  # the head of each request
        self.left = asyncio.Event()  # a client that was being answered went away
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.asked.append(head)
            found = self.answers.get(head.split(" ")[1], answer(status="404 Not Found"))
            if isinstance(found, bytes):
                writer.write(found)
                await writer.drain()
            else:
                await found(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def web_double() -> AsyncIterator[WebDouble]:
    double = WebDouble()
    server = await asyncio.start_server(double._serve, "127.0.0.1", 0)
    double.port = server.sockets[0].getsockname()[1]
    async with server:
        yield double


class Network(httpcore2.AsyncNetworkBackend):
    """Notes what is dialled, and connects to the double whatever it is."""

    def __init__(self, double: WebDouble) -> None:
        self._double = double
        self._network = httpcore2.AnyIOBackend()
        self.dialled: list[tuple[str, int]] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the name is the library's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        self.dialled.append((host, port))
        return await self._network.connect_tcp("127.0.0.1", self._double.port, timeout)


class Names:
    """A name server; one that has several answers for a name gives one after the other, and the last for ever."""

    def __init__(self, **known: list[str] | list[list[str]]) -> None:
        self._known: dict[str, list[list[str]]] = {
            name.replace("_", "."): [entry if isinstance(entry, list) else [entry] for entry in answers]
            for name, answers in known.items()
        }
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answers = self._known.get(host)
        if answers is None:
            raise OSError("no such host")
        return answers.pop(0) if len(answers) > 1 else answers[0]
