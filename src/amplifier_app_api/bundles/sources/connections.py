"""The network as a download sees it: checked addresses only, and every wait within the fetch's patience.

Checking where the connection is made, and not where an address is written, covers redirects too. The name
of the host stays with TLS, so certificates are those of the host.
"""

import ssl
from collections.abc import Iterable
from typing import Any

from httpcore2 import (
    SOCKET_OPTION,
    ConnectError,
    ConnectTimeout,
    NetworkBackend,
    NetworkStream,
    ReadTimeout,
    SyncBackend,
)

from .addresses import AddressBook
from .limits import Patience

_STEP = 0.5
_CONNECTING = 10.0
"""Connecting cannot be given up in between, and the next address may be the one that answers."""


class CheckedNetwork(NetworkBackend):
    """Connections for one download."""

    def __init__(self, addresses: AddressBook, patience: Patience) -> None:
        self._addresses = addresses
        self._patience = patience
        self._network = SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> NetworkStream:
        last: ConnectError | ConnectTimeout | None = None
        for address in self._addresses.lookup(host, port, self._patience):
            try:
                left = min(self._patience.left(), _CONNECTING)
                stream = self._network.connect_tcp(address, port, left, local_address, socket_options)
            except (ConnectError, ConnectTimeout) as error:
                last = error
            else:
                return PatientStream(stream, self._patience)
        raise last or ConnectError(f"{host} cannot be reached")


class PatientStream(NetworkStream):
    """A stream on which no step waits longer than what is left of the whole: dripping does not extend it."""

    def __init__(self, stream: NetworkStream, patience: Patience) -> None:
        self._stream = stream
        self._patience = patience

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:  # in short steps, so that a fetch nobody waits for ends soon
            left = self._patience.left()
            try:
                return self._stream.read(max_bytes, min(left, _STEP))
            except ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._patience.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> NetworkStream:
        return PatientStream(
            self._stream.start_tls(ssl_context, server_hostname, self._patience.left()), self._patience
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
