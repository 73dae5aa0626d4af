"""What the code of a module is, whatever folder it lies in.

Each commit of a source has a folder of its own. A commit that changes a text somewhere else in the repository
leaves the module what it was: a process that has loaded it goes on with what it has.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from .module_folders import ModulePackage

_IGNORED = frozenset({"__pycache__", ".git"})
_MAX_FILES = 5_000


@lru_cache(maxsize=256)
def content_of(package: ModulePackage) -> str | None:
    """The sha256 of everything the package may import of its own source. None: there is too much of it.

    Only for folders that do not change once they are there, as those of fetched sources. Reads files.
    """
    digest = hashlib.sha256()
    for count, file in enumerate(_files(package)):
        if count == _MAX_FILES:
            return None
        name = file.relative_to(package.root or package.folder).as_posix()
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _files(package: ModulePackage) -> Iterator[Path]:
    roots = [package.folder]
    if package.root is not None:
        beside = (found for found in package.root.iterdir() if found != package.folder)
        roots += [found for found in beside if found.suffix == ".py" or (found / "__init__.py").is_file()]
    for root in sorted(roots):
        yield from ([root] if root.is_file() else sorted(_below(root)))


def _below(folder: Path) -> Iterator[Path]:
    for found in folder.iterdir():
        if found.name in _IGNORED or found.is_symlink():
            continue
        if found.is_dir():
            yield from _below(found)
        elif found.is_file():
            yield found
