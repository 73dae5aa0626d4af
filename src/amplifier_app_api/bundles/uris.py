"""Where something comes from, as written in `includes` and `source:`.

The forms, first match wins: git (`git+https://host/path@ref#subdirectory=x`), zip (`zip+https://…`),
`file://path`, an absolute path, a relative path (it needs the leading `./` or `../`), http(s), and for
everything else a name.
"""

import re
from dataclasses import dataclass

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_REMOTE = re.compile(r"(?P<scheme>[^:/]*)://(?P<host>[^/?#]*)(?P<path>[^?#]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUri:
    """The parts of a source. An empty `scheme` is a name; `ref` is a git ref; `subpath` is below `path`."""

    text: str
    scheme: str = ""
    host: str = ""
    path: str = ""
    ref: str = ""
    subpath: str = ""

    @property
    def is_git(self) -> bool:
        return self.scheme.startswith("git+")

    @property
    def is_zip(self) -> bool:
        return self.scheme.startswith("zip+")

    @property
    def is_file(self) -> bool:
        return self.scheme == "file"

    @property
    def is_http(self) -> bool:
        return self.scheme in {"http", "https"}

    @property
    def is_name(self) -> bool:
        return self.scheme == ""

    @property
    def is_remote(self) -> bool:
        return self.is_git or self.is_zip or self.is_http

    @property
    def is_windows_path(self) -> bool:
        return self.is_file and _WINDOWS.match(self.path) is not None

    @property
    def is_relative_path(self) -> bool:
        """Whether it names a file that can only be found from some folder, however that was spelled."""
        if self.is_file:
            return not self.path.startswith("/") and not self.is_windows_path
        looks_like_a_path = "/" in self.text or self.text in {".", ".."} or self.text.endswith((".md", ".yaml", ".yml"))
        return self.is_name and looks_like_a_path and ":" not in self.text and not self.text.startswith("$")

    @classmethod
    def parse(cls, text: str) -> "SourceUri":
        """Read a source. Every text is one; what cannot be anything else is a name."""
        if text.startswith(("git+", "zip+")):
            return _remote(text)
        if text.startswith("file://"):
            location, _, fragment = text.removeprefix("file://").partition("#")
            return cls(text=text, scheme="file", path=location, subpath=_subdirectory(fragment))
        if text.startswith(("/", "./", "../")) or _WINDOWS.match(text):
            return cls(text=text, scheme="file", path=text)
        if text.startswith(("http://", "https://")):
            return _remote(text)
        name, _, rest = text.partition("/")
        return cls(text=text, path=name, subpath=rest)


def _remote(text: str) -> SourceUri:
    location, _, fragment = text.partition("#")
    parts = _REMOTE.match(location)
    if parts is None:
        scheme, _, rest = location.partition("+")
        path, _, ref = rest.partition("@")
        return SourceUri(text=text, scheme=f"{scheme}+", path=path, ref=ref, subpath=_subdirectory(fragment))
    path, ref = parts["path"], ""
    if parts["scheme"].startswith("git+"):
        path, ref = _with_ref(path)
    return SourceUri(
        text=text, scheme=parts["scheme"], host=parts["host"], path=path, ref=ref, subpath=_subdirectory(fragment)
    )


def _with_ref(path: str) -> tuple[str, str]:
    """Path and ref of a git address. No ref means `main`; a bare `@` at the end belongs to the path."""
    before, at, ref = path.partition("@")
    if not at:
        return path, "main"
    return (before, ref) if ref else (path, "")


def _subdirectory(fragment: str) -> str:
    """The one key a fragment may carry; all others mean nothing."""
    for item in fragment.split("&"):
        key, equals, value = item.partition("=")
        if equals and key == "subdirectory":
            return value
    return ""
