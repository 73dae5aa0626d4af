"""Web addresses as the model writes them, taken apart once: what is checked is what is dialled and asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from amplifier_app_api.modules.tools.refusals import Refused

MAX_LENGTH = 8_000
_PORTS = {"http": 80, "https": 443}
_NOT_IN_ADDRESSES = re.compile(r"[\x00-\x20\x7f\\]")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%.+)?")
_KEPT = "/%:@!$&'()*+,;=~-._?[]"


@dataclass(frozen=True, slots=True)
class WebAddress:
    """`host` is a name in ASCII or an address without brackets; `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    def onward(self, location: str) -> WebAddress:
        """Where a redirect from here leads."""
        try:
            return read_address(urljoin(self.url, location))
        except ValueError:
            raise Refused(f"{self.url} redirects to what is no web address") from None

    def within(self, domains: list[str]) -> bool:
        """Whether the host is one of the domains, or below one."""
        host = self.host.rstrip(".").lower()
        return any(host == domain or host.endswith(f".{domain}") for domain in domains)


def read_address(text: str) -> WebAddress:
    """`Refused` for what is no address of http or https, or hides a name and password in it."""
    text = text.strip()
    if len(text) > MAX_LENGTH or _NOT_IN_ADDRESSES.search(text):
        raise Refused("That is no web address")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        raise Refused("That is no web address") from None
    if parts.scheme not in _PORTS:
        raise Refused("Only http:// and https:// addresses can be fetched")
    if "@" in parts.netloc:
        raise Refused("An address with a name or password in it is not fetched")
    if not host or port == 0:
        raise Refused("That is no web address")
    target = quote(parts.path or "/", safe=_KEPT, errors="replace")
    if parts.query:
        target += "?" + quote(parts.query, safe=_KEPT, errors="replace")
    return WebAddress(parts.scheme, ascii_host(host), port or _PORTS[parts.scheme], target)


def ascii_host(host: str) -> str:
    """A host as it is dialled and compared; `Refused` for what is none."""
    if ":" in host and _IPV6.fullmatch(host):
        return host.lower()
    try:
        named = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise Refused("That is no web address") from None
    if not named or not re.fullmatch(r"[a-z0-9._-]+", named):
        raise Refused("That is no web address")
    return named
