"""Which addresses may be dialled.

A name is resolved once, every address it has is checked, and the checked ones are what is dialled: a name
server that answers differently a moment later changes nothing.
"""

import ipaddress
import queue
import socket
import threading
from collections.abc import Callable

from .limits import Patience, failed, refused

Resolver = Callable[[str, int], list[str]]
"""The addresses of a host as text; `OSError` when it has none."""

_COMPATIBLE = ipaddress.ip_network("::/96")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def resolve(host: str, port: int) -> list[str]:
    """The addresses that this machine's resolver knows."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class AddressBook:
    """Host names to addresses that may be dialled."""

    def __init__(self, *, private_addresses: bool = False, resolver: Resolver = resolve) -> None:
        self._private_addresses = private_addresses
        self._resolver = resolver

    def lookup(self, host: str, port: int, patience: Patience) -> list[str]:
        """The addresses of a host, at least one; `Unresolved` when one of them must not be dialled."""
        try:
            addresses = self._resolve(host.strip("[]"), port, patience)
        except (OSError, UnicodeError):
            raise failed(f"The host {host} is not known.") from None
        if not addresses:
            raise failed(f"The host {host} has no address.")
        if not all(self._may_dial(address) for address in addresses):
            raise refused(
                f"The host {host} has an address that is not public, which AMPLIFIER_PRIVATE_ADDRESSES refuses."
            )
        return addresses

    def _may_dial(self, text: str) -> bool:
        try:
            address = _innermost(ipaddress.ip_address(text.partition("%")[0]))
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
            return self._private_addresses
        if address.is_multicast or address.is_unspecified or address.is_link_local:
            return False  # not even when private ones are allowed: machines of a cloud keep their secrets there
        return address.is_global or self._private_addresses

    def _resolve(self, host: str, port: int, patience: Patience) -> list[str]:
        # The resolver cannot be interrupted, so it is a thread of its own that is waited for; it ends by itself.
        answer: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer.put(self._resolver(host, port))
            except Exception as error:  # raised again by the one who waits
                answer.put(error)

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        try:
            found = answer.get(timeout=patience.left())
        except queue.Empty:
            raise failed(f"The host {host} was not resolved in time.") from None
        if isinstance(found, Exception):
            raise found
        return found


def _innermost(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address
