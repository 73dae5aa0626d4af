"""Folders with what was installed for modules, and putting them on Python's path.

They come after everything the server has, so that nothing of the server is replaced. A process has one version of a
distribution: a folder that brings another version of one that is on the path already is refused.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.utils import canonicalize_name

from amplifier_app_api.bundles.dependencies import LIBRARIES_MARK


class LibraryConflict(Exception):
    """This process runs another version of something that was installed for the module."""

    def __init__(self, name: str, wanted: str, loaded: str) -> None:
        super().__init__(f"{name} {wanted} is needed and this process runs {name} {loaded} for other modules")
        self.name = name


def library_conflict(folders: Iterable[Path]) -> LibraryConflict | None:
    """Why these folders cannot be used in this process, when they cannot."""
    on_path = [Path(folder) for folder in sys.path]
    present: dict[str, str] = {}
    for folder in on_path:
        if (folder / LIBRARIES_MARK).exists():
            present = {**_versions(folder), **present}
    for folder in folders:
        if folder in on_path:
            continue
        for name, version in _versions(folder).items():
            if present.get(name, version) != version:
                return LibraryConflict(name, version, present[name])
    return None


def put_on_path(folders: Iterable[Path]) -> None:
    """Make what the folders hold importable; `LibraryConflict` where that cannot be."""
    wanted = [folder for folder in folders if str(folder) not in sys.path]
    conflict = library_conflict(wanted)
    if conflict is not None:
        raise conflict
    sys.path.extend(map(str, wanted))
    if wanted:
        importlib.invalidate_caches()


def _versions(folder: Path) -> Mapping[str, str]:
    found = importlib.metadata.distributions(path=[str(folder)])
    return {canonicalize_name(one.metadata["Name"]): one.version for one in found}
