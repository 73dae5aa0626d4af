"""What the operator allows: patterns for addresses, folders for files.

pattern    [kind "://"] host [":" port] ["/" path]      git+file and zip+file have no host
kind       git+https, zip+https, https, their http twins, git+file, zip+file; without one: the three of https
host       a name, `*.example.com` for every name below it, or `*`
path       the whole path; a last segment `*` is everything below, a `*` elsewhere does not cross a slash;
           without a path: everything of the host
"""

import os.path
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amplifier_app_api.bundles.fetched import Unresolved
from amplifier_app_api.bundles.folders import AllowedFolders, NotAllowed
from amplifier_app_api.bundles.values import quoted

from .limits import refused
from .remote import KINDS, Remote, plain_path, split_authority

SETTING = "AMPLIFIER_SOURCE_ALLOW"


@dataclass(frozen=True, slots=True)
class AllowPattern:
    """One entry of the list. `port` of 0 is the usual one."""

    text: str
    kinds: frozenset[str]
    host: str
    port: int
    path: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> "AllowPattern":
        """Read an entry; `ValueError` with a sentence for what is none."""
        kind, slashes, rest = text.partition("://")
        if not slashes:
            kind, rest = "", text
        elif kind not in KINDS:
            raise ValueError(f"{text!r}: {kind!r} is none of {', '.join(KINDS)}")
        if any(char in rest for char in "?#\\") or (kind.startswith("git+") and "@" in rest):
            raise ValueError(f"{text!r} must be a host and a path, without ref, query and fragment")
        authority, slash, path = rest.partition("/")
        transport = kind.rpartition("+")[2] or "https"
        try:
            host, port = ("", 0) if transport == "file" else _host(authority, transport, text)
            plain = plain_path(slash + path, text) if transport != "file" else slash + path
        except Unresolved as problem:
            raise ValueError(problem.detail) from None
        if transport == "file" and (authority or not slash):
            raise ValueError(f"{text!r} must name an absolute path: {kind}:///path/*")
        kinds = frozenset((kind,)) if kind else frozenset(("git+https", "zip+https", "https"))
        return cls(text, kinds, host, port, _path_pattern(plain if path else "/*"))

    def covers(self, remote: Remote) -> bool:
        """Whether the pattern allows an address. A file is where its links lead."""
        if remote.kind not in self.kinds or remote.port != self.port or not self._covers_host(remote.host):
            return False
        path = os.path.realpath(remote.path) if remote.transport == "file" else remote.path
        return self.path.fullmatch(_comparable(path)) is not None

    def _covers_host(self, host: str) -> bool:
        if self.host.startswith("*"):
            return self.host == "*" or (host.endswith(self.host[1:]) and len(host) > len(self.host[1:]))
        return host == self.host


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePolicy:
    """Where sources may come from. Nothing remote, unless `allow` covers it.

    `private_addresses` is whether a host may be in a private network or on this machine.
    """

    allow: tuple[AllowPattern, ...] = ()
    roots: tuple[Path, ...] = ()
    private_addresses: bool = False

    @classmethod
    def of(
        cls, allow: Sequence[str] = (), *, roots: Sequence[Path] = (), private_addresses: bool = False
    ) -> "SourcePolicy":
        """The policy that settings say; `ValueError` for a pattern that is none."""
        patterns = tuple(AllowPattern.parse(text) for text in allow)
        return cls(allow=patterns, roots=tuple(roots), private_addresses=private_addresses)

    def folders(self) -> AllowedFolders:
        return AllowedFolders.of(*self.roots)

    def check(self, remote: Remote) -> None:
        """`Unresolved` with `source_not_allowed` unless the address may be fetched, or read from a root."""
        if any(pattern.covers(remote) for pattern in self.allow):
            return
        if remote.transport == "file":
            self._check_below_roots(remote)
            return
        raise refused(
            f"{quoted(remote.pinned())} is covered by no pattern of {SETTING}. "
            f"To allow it, an operator adds {quoted(_suggestion(remote))} there."
        )

    def _check_below_roots(self, remote: Remote) -> None:
        try:
            self.folders().resolve(Path(remote.path))
        except (NotAllowed, ValueError):
            raise refused(
                f"{quoted(remote.pinned())} is neither below one of AMPLIFIER_SOURCE_ROOTS "
                f"nor covered by a pattern of {SETTING}."
            ) from None


def _host(authority: str, transport: str, text: str) -> tuple[str, int]:
    if authority == "*" or authority.startswith("*:"):
        return "*", split_authority(f"any{authority[1:]}", transport, text)[1]
    if authority.startswith("*."):
        host, port = split_authority(authority[2:], transport, text)
        return f"*.{host}", port
    return split_authority(authority, transport, text)


def _path_pattern(path: str) -> re.Pattern[str]:
    *folders, last = _comparable(path).split("/")
    inner = [_within_segment(folder) for folder in folders]
    return re.compile("/".join([*inner, ".+" if last == "*" else _within_segment(last)]), re.DOTALL)


def _within_segment(segment: str) -> str:
    return "[^/]*".join(re.escape(part) for part in segment.split("*"))


def _comparable(path: str) -> str:
    """A repository answers with and without `.git` and a slash at the end, so a pattern covers all of these."""
    return path.rstrip("/").removesuffix(".git") or "/"


def _suggestion(remote: Remote) -> str:
    """The narrowest pattern that is worth keeping: the organisation of a repository, the folder of a file."""
    folder = remote.path.rstrip("/").rpartition("/")[0]
    return f"{remote.kind}://{remote.authority}{folder}/*"
