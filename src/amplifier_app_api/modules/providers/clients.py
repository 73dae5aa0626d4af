"""The vendors' clients, shared by the sessions of one event loop that speak with the same credentials.

A client holds a pool of connections; making one for each session costs milliseconds, memory and a handshake.
It is known by everything it was made of: sessions whose key, address or any other option differs never share
one. Of that only a digest is kept, under a key of this process, so that no credential lives here as text.

The loop is part of what a client is known by, as its connections belong to the loop that opened them.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import secrets
import ssl
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar

import httpcore2

from amplifier_app_api.modules import BUILTIN_MODULES, MissingExtra

T = TypeVar("T")

_DIGEST_KEY = secrets.token_bytes(32)


@dataclass(slots=True)
class _Entry(Generic[T]):
    client: T
    close: Callable[[T], Awaitable[None]]
    holders: int = 0
    running: int = 0
    waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque[tuple[int, asyncio.Future[None]]])

    def admit(self) -> None:
        """Let those in who have waited longest, as far as their limits allow."""
        while self.waiting and self.running < self.waiting[0][0]:
            _, turn = self.waiting.popleft()
            self.running += 1
            turn.set_result(None)


_Clients = dict[tuple[str, bytes], _Entry[Any]]
_clients: dict[asyncio.AbstractEventLoop, _Clients] = {}
_lock = threading.Lock()


class SharedClient(Generic[T]):
    """One holder's share of a client; `release` it in the end, once or more often."""

    def __init__(self, entry: _Entry[T], forget: Callable[[], None], limit: int) -> None:
        self.client = entry.client
        self._entry = entry
        self._forget = forget
        self._limit = limit
        self._released = False

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Hold one of the calls that may run at a time with these credentials; without a limit, at once.

        Calls of all holders count, each holder waits by its own limit.
        """
        entry = self._entry
        if self._limit and (entry.waiting or entry.running >= self._limit):
            await self._wait(entry)
        else:
            entry.running += 1
        try:
            yield
        finally:
            entry.running -= 1
            entry.admit()

    async def _wait(self, entry: _Entry[T]) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry.waiting.append((self._limit, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                entry.waiting.remove((self._limit, turn))
            else:
                entry.running -= 1  # let in and cancelled in one moment
            entry.admit()
            raise

    async def release(self) -> None:
        """The last release closes the client."""
        if self._released:
            return
        self._released = True
        self._entry.holders -= 1
        if self._entry.holders == 0:
            self._forget()
            await self._entry.close(self._entry.client)


def shared_client(
    kind: str,
    identity: Mapping[str, object],
    make: Callable[[], T],
    close: Callable[[T], Awaitable[None]],
    *,
    max_concurrent_requests: int = 0,
) -> SharedClient[T]:
    """The client of this kind and identity on the running loop, made when there is none.

    `identity` is everything `make` depends on (JSON values). `max_concurrent_requests`: 0 for no limit.
    """
    loop = asyncio.get_running_loop()
    key = (kind, _digest(identity))
    with _lock:
        for ended in [other for other in _clients if other.is_closed()]:
            del _clients[ended]  # whoever left clients there took the loop away under them
        clients = _clients.setdefault(loop, {})
    entry = clients.get(key)
    if entry is None:
        entry = clients[key] = _Entry(make(), close)
    entry.holders += 1
    return SharedClient(entry, lambda: _forget(loop, key), max_concurrent_requests)


def _forget(loop: asyncio.AbstractEventLoop, key: tuple[str, bytes]) -> None:
    with _lock:
        clients = _clients.get(loop)
        if clients is not None:
            clients.pop(key, None)
            if not clients:
                del _clients[loop]


def open_clients(kind: str) -> int:
    """How many clients of a kind the running loop has."""
    clients = _clients.get(asyncio.get_running_loop(), {})
    return sum(1 for known, _ in clients if known == kind)


def _digest(identity: Mapping[str, object]) -> bytes:
    text = json.dumps(identity, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), key=_DIGEST_KEY).digest()


@lru_cache(maxsize=1)
def certificates() -> ssl.SSLContext:
    """One per process: reading the certificates takes 20 ms and memory, for every client alike."""
    return httpcore2.default_ssl_context()


async def load_implementation(module_id: str, target: str) -> None:
    """Import the Python module `target`, and the vendor's SDK with it, in a thread: it takes up to a second.

    `MissingExtra` when the SDK is not installed. After it a plain import of `target` costs nothing.
    """
    module = BUILTIN_MODULES[module_id]
    try:
        await asyncio.to_thread(importlib.import_module, target)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(__name__.partition(".")[0]):
            raise
        raise MissingExtra(module, error.name) from error
