"""Which addresses the web tools may dial.

A name is resolved once for each connection, every address it has is checked, and the checked ones are what is
dialled: a name server that answers differently a moment later changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

from amplifier_app_api.modules.tools.refusals import Refused

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host as text; `OSError` when it has none."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_COMPATIBLE = ipaddress.ip_network("::/96")
_TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/96", "::ffff:0:0:0/96")))
"""What a gateway translates, with the IPv4 address at the end."""
_LOCALLY_TRANSLATED = ipaddress.ip_network("64:ff9b:1::/48")
"""The rest of what is for gateways of one's own: where in it the IPv4 address stands, they alone know."""


async def resolve(host: str, port: int) -> list[str]:
    """The addresses that this machine's resolver knows."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class AddressBook:
    """Host names to addresses that may be dialled.

    `private_addresses` lets networks of one's own be dialled, this machine among them; what clouds answer their
    machines on (link-local) stays closed even then.
    """

    def __init__(self, *, private_addresses: bool = False, resolver: Resolver = resolve) -> None:
        self._private_addresses = private_addresses
        self._resolver = resolver

    async def lookup(self, host: str, port: int) -> list[str]:
        """The addresses of a host, at least one; `Refused` when one of them must not be dialled."""
        try:
            addresses = await self._resolver(host, port)
        except (OSError, UnicodeError):
            raise Refused(f"The host {host} is not known") from None
        if not addresses:
            raise Refused(f"The host {host} has no address")
        if not all(self._may_dial(address) for address in addresses):
            raise Refused(f"The host {host} has an address that is not public; this server does not go there")
        return addresses

    def _may_dial(self, text: str) -> bool:
        try:
            address = _innermost(ipaddress.ip_address(text.partition("%")[0]))
        except ValueError:
            return False
        if address.is_multicast or address.is_unspecified or address.is_link_local or address in _LOCALLY_TRANSLATED:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
            return self._private_addresses
        return address.is_global or self._private_addresses


def _innermost(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if any(address in network for network in _TRANSLATED) or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address
