"""The HTTP server of this process: uvicorn, with an end that streams and signals reach in time."""

import asyncio
import math
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from amplifier_app_api.services import Services
from amplifier_app_api.settings import Settings

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """Ends open streams before uvicorn waits for connections to close: it would wait for them for ever."""

    def __init__(self, config: uvicorn.Config, services: Services, *, when_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._services = services
        self._when_ready = when_ready
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._when_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._draining = asyncio.create_task(self._services.stop_streams(), name="drain")
        await asyncio.wait([self._draining])
        if not self._draining.cancelled():
            self._draining.result()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal gives running turns their grace, the second ends it."""
        if self._draining is not None:
            self.force_exit = True
            self._draining.cancel()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Stop on the signals that ask for it.

        uvicorn's own way raises them again at the end, and the process would die before its services are closed.
        """
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs `app`: logs are ours, the life of the services is the caller's."""
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, math.ceil(settings.shutdown_grace.total_seconds())),
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)
