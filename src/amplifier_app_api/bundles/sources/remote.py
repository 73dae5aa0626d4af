"""A remote source in the one spelling that is matched, dialled and hashed.

Two spellings that a server may take for the same must not pass a pattern differently, so whatever has more than
one reading is refused here: credentials, dots and encoded separators in paths, odd ports, hosts that are not
plain ASCII names.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from amplifier_app_api.bundles.uris import SourceUri
from amplifier_app_api.bundles.values import quoted
from amplifier_app_api.observability.redaction import without_user_info

from .limits import refused

KINDS = ("git+https", "git+http", "git+file", "zip+https", "zip+http", "zip+file", "https", "http")
PORTS = {"https": 443, "http": 80}
LONGEST = 4096

_AUTHORITY = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?)\.?(?::(?P<port>\d{1,5}))?"
)
_ESCAPE = re.compile(r"%(?P<hex>[0-9A-Fa-f]{2})?")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_HIDDEN = re.compile(r"%(?:2f|5c|00)", re.IGNORECASE)
_PATH_AND_QUERY = "/%:@!$&'()*+,;=~-._?"
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Where a source is: `transport` is `https`, `http` or `file`, `path` begins with a slash.

    `query` is empty but after a redirect: in the text of a source a query means nothing.
    """

    kind: str
    host: str
    port: int
    path: str
    ref: str = ""
    subpath: str = ""
    sha256: str = ""
    query: str = ""

    @property
    def transport(self) -> str:
        return self.kind.rpartition("+")[2]

    @property
    def is_git(self) -> bool:
        return self.kind.startswith("git+")

    @property
    def is_archive(self) -> bool:
        return self.kind.startswith("zip+")

    @property
    def authority(self) -> str:
        """Host and port as in an address; the usual port is left out."""
        return self.host if self.port == PORTS.get(self.transport, 0) else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where it is asked for: without the kind, the ref, the subdirectory and the query."""
        return f"{self.transport}://{self.authority}{self.path}"

    def pinned(self, *, commit: str = "", sha256: str = "") -> str:
        """The text that names exactly this content; it can be fetched again."""
        subdirectory = f"subdirectory={self.subpath}" if self.subpath else ""
        fragment = "&".join(part for part in (subdirectory, f"sha256={sha256}" if sha256 else "") if part)
        prefix = "git+" if self.is_git else "zip+" if self.is_archive else ""
        return f"{prefix}{self.url}" + (f"@{commit}" if commit else "") + (f"#{fragment}" if fragment else "")


def read_remote(text: str, *, query: str = "") -> Remote:
    """The address in a source; `Unresolved` with `source_not_allowed` for one that could be read in two ways.

    `query` is that of a redirect.
    """
    if len(text) > LONGEST:
        raise refused(f"{quoted(without_user_info(text)[:100])} has more than {LONGEST} characters.")
    where = quoted(without_user_info(text))
    uri = SourceUri.parse(text)
    if uri.scheme not in KINDS:
        raise refused(f"{where} is of no kind that is fetched: git+https, zip+https, https, git+file, zip+file.")
    if "\\" in text or any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
        raise refused(f"{where} holds a character that no address has.")
    transport = uri.scheme.rpartition("+")[2]
    host, port = ("", 0) if transport == "file" else split_authority(uri.host, transport, where)
    if transport == "file" and uri.host:
        raise refused(f"{where} names a file on another machine: a local address has three slashes.")
    path = uri.path if transport == "file" else plain_path(uri.path, where)
    sha256 = "" if uri.is_git else _digest(text, where)
    return Remote(
        kind=uri.scheme,
        host=host,
        port=port,
        path=path,
        ref=uri.ref,
        subpath=uri.subpath,
        sha256=sha256,
        query="?" + quote(query, safe=_PATH_AND_QUERY) if query else "",
    )


def split_authority(authority: str, transport: str, where: str) -> tuple[str, int]:
    """Host in small letters and port."""
    if "@" in authority:
        # Not quoted further: what stands before the @ is a password more often than not.
        raise refused("A source must not hold credentials (user:password@host).")
    match = _AUTHORITY.fullmatch(authority)
    if match is None or ".." in authority:
        raise refused(f"{where} has no host that can be asked (names are ASCII; write others as xn--…).")
    port = int(match["port"]) if match["port"] else PORTS[transport]
    if not 0 < port < 65536:
        raise refused(f"{where} has no possible port.")
    return match["host"].lower(), port


def plain_path(path: str, where: str) -> str:
    """A path whose percent-encoding is the usual one, and in which no segment is empty or dots."""
    if _HIDDEN.search(path):
        raise refused(f"{where} hides a separator in its path.")
    path = _ESCAPE.sub(_usual_escape, path)
    if "%!" in path:
        raise refused(f"{where} has a % that encodes nothing.")
    path = quote(path, safe=_PATH_AND_QUERY)
    segments = path.split("/")[1:] or [""]
    if any(segment in {".", ".."} for segment in segments) or "" in segments[:-1]:
        raise refused(f"{where} has an empty segment or dots in its path.")
    return "/" + "/".join(segments)


def _usual_escape(match: re.Match[str]) -> str:
    digits = match["hex"]
    if digits is None:
        return "%!"
    plain = unquote(f"%{digits}", encoding="latin-1")
    return plain if _UNRESERVED.fullmatch(plain) else f"%{digits.upper()}"


def _digest(text: str, where: str) -> str:
    """The `sha256` of a fragment: what the content must be."""
    for item in text.partition("#")[2].split("&"):
        key, _, value = item.partition("=")
        if key == "sha256":
            if not SHA256.fullmatch(value):
                raise refused(f"{where} has a sha256 that is not 64 hexadecimal digits.")
            return value
    return ""
