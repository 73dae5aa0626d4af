"""One file over https, into a file of ours."""

import hashlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import httpcore2

from .addresses import AddressBook
from .connections import CheckedNetwork
from .limits import FetchLimits, Patience, failed
from .policy import SourcePolicy
from .remote import Remote, read_remote

_REDIRECTS = (301, 302, 303, 307, 308)
_NOTHING_ENCODED = ("", "identity")
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,200}"')


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What arrived. `etag` is the server's name for this content, empty when it has none."""

    sha256: str
    size: int
    etag: str


class Downloader:
    """Fetches files by the policy. Neither proxies nor credentials of the environment are used."""

    def __init__(
        self, policy: SourcePolicy, limits: FetchLimits, addresses: AddressBook, ca_file: Path | None = None
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._addresses = addresses
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else httpcore2.default_ssl_context()

    def download(self, remote: Remote, into: Path, patience: Patience, *, etag: str = "") -> Downloaded | None:
        """The content of an address, written to `into`; `None` when it is still the one that `etag` names."""
        network = CheckedNetwork(self._addresses, patience)
        with httpcore2.ConnectionPool(ssl_context=self._tls, network_backend=network) as pool:
            try:
                return self._follow(pool, remote, into, etag)
            except httpcore2.TimeoutException:
                raise failed(f"{remote.url} did not answer in time.") from None
            except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
                raise failed(f"{remote.url} could not be fetched: {error}.") from None

    def _follow(self, pool: httpcore2.ConnectionPool, remote: Remote, into: Path, etag: str) -> Downloaded | None:
        at = remote
        for _ in range(self._limits.redirects + 1):
            headers = [("Host", at.authority), ("Accept-Encoding", "identity"), ("User-Agent", "amplifier-app-api")]
            if etag:
                headers.append(("If-None-Match", etag))
            # A source has no query; that of a redirect is the server's own and is kept.
            with pool.stream("GET", at.url + at.query, headers=headers) as response:
                found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
                if response.status in _REDIRECTS and "location" in found:
                    at = self._redirected(at, found["location"])
                    continue
                if response.status == 304 and etag:
                    return None
                if response.status != 200:
                    raise failed(f"{at.url} answered {response.status}.")
                return self._save(response, found, at, into)
        raise failed(f"{remote.url} redirects more than {self._limits.redirects} times.")

    def _redirected(self, at: Remote, location: str) -> Remote:
        try:
            target = urljoin(at.url, location)
        except ValueError:
            raise failed(f"{at.url} redirects to what is no address.") from None
        address, _, query = target.partition("#")[0].partition("?")
        if not address.startswith(f"{at.transport}://"):
            raise failed(f"{at.url} redirects to another kind of address.")
        archive = "zip+" if at.is_archive else ""
        onward = read_remote(f"{archive}{address}", query=query)
        self._policy.check(onward)
        return onward

    def _save(self, response: httpcore2.Response, found: dict[str, str], at: Remote, into: Path) -> Downloaded:
        if found.get("content-encoding", "").lower() not in _NOTHING_ENCODED:
            raise failed(f"{at.url} answered encoded content that was not asked for.")
        most = self._limits.download_bytes
        digest, size = hashlib.sha256(), 0
        with into.open("wb") as file:
            for chunk in response.iter_stream():
                size += len(chunk)
                if size > most:
                    raise failed(f"{at.url} is larger than {most} bytes.")
                digest.update(chunk)
                file.write(chunk)
        etag = found.get("etag", "")
        # One that cannot be sent back as it came is of no use.
        return Downloaded(digest.hexdigest(), size, etag if _ETAG.fullmatch(etag) else "")
