"""Reading the documents of one preparation: each file once, all of them within one budget."""

from pathlib import Path

from .document import Document, DocumentLimits, InvalidYaml, parse_markdown, parse_yaml
from .fetched import Unresolved
from .folders import FileStamp, read_file

MAX_DOCUMENTS = 200
MAX_AGENT_FILES = 500
MAX_TOTAL_BYTES = 8 << 20


class Reader:
    """Parses files and remembers what they were."""

    def __init__(self, limits: DocumentLimits) -> None:
        self._limits = limits
        self._documents: dict[Path, Document] = {}
        self._stamps: dict[Path, FileStamp] = {}
        self._agents_left = MAX_AGENT_FILES
        self._bytes_left = MAX_TOTAL_BYTES

    @property
    def stamps(self) -> tuple[FileStamp, ...]:
        """Every file read, in order."""
        return tuple(self._stamps.values())

    def document(self, path: Path) -> Document:
        """The bundle document in a file. `Unresolved` when it cannot be read, `Invalid` when it is none."""
        if path not in self._documents:
            if len(self._documents) >= MAX_DOCUMENTS:
                raise Unresolved("document_too_complex", f"more than {MAX_DOCUMENTS} documents are included.")
            self._documents[path] = self._parsed(path, self._text(path))
        return self._documents[path]

    def agent(self, path: Path) -> Document:
        """The markdown in an agent's file, which counts apart from the documents."""
        self._agents_left -= 1
        if self._agents_left < 0:
            raise Unresolved("document_too_complex", f"more than {MAX_AGENT_FILES} files of agents are read.")
        return parse_markdown(self._text(path), self._limits)

    def _parsed(self, path: Path, text: str) -> Document:
        if path.suffix == ".md":
            return parse_markdown(text, self._limits)
        return Document(text, parse_yaml(text, self._limits))

    def _text(self, path: Path) -> str:
        try:
            content, stamp = read_file(path, min(self._limits.max_bytes, self._bytes_left))
        except OSError as error:
            raise Unresolved("bundle_not_found", f"{path.name} cannot be read: {error.strerror or error}.") from None
        self._bytes_left -= len(content)
        self._stamps[path] = stamp
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise InvalidYaml("it is not UTF-8") from None
