"""Python packages of module sources, found by name without putting their folders on Python's path.

A folder on the path would let anything in it stand in for what the server imports later. Here a name is claimed for
one place, and only when nothing in the process or its environment has that name. Python keeps names process-wide, so
what is imported stays; the truth about a name is what Python has under it.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from amplifier_app_api.bundles.module_folders import ModulePackage

_NEVER_IMPORTED = frozenset(
    {"benchmarks", "build", "conftest", "dist", "docs", "examples", "noxfile", "scripts", "setup", "test", "tests"}
)
_OTHERS = _NEVER_IMPORTED | sys.stdlib_module_names


class NameTaken(Exception):
    """Another source, or the server itself, already has a Python package of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the Python package {name} is already there from somewhere else")
        self.name = name


class SourceFinder(MetaPathFinder):
    """Python's way to the packages that were claimed. One per process is enough; more do not disturb each other."""

    def __init__(self) -> None:
        self._places: dict[str, Path] = {}
        self._claimed_by: dict[str, frozenset[str]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Part of Python's protocol."""
        place = self._places.get(fullname)
        if place is None:
            return None
        if place.suffix == ".py":
            return importlib.util.spec_from_file_location(fullname, place)
        inside = [str(place)]
        return importlib.util.spec_from_file_location(
            fullname, place / "__init__.py", submodule_search_locations=inside
        )

    def taken(self, package: ModulePackage) -> NameTaken | None:
        """Why the package cannot be imported into this process, when it cannot."""
        for name, place in _names(package):
            if _is_held_elsewhere(name, place):
                return NameTaken(name)
        return None

    def load(self, package: ModulePackage) -> ModuleType:
        """Import the package, or have it again. Blocks; `NameTaken`, or whatever the package raises.

        A failed import leaves nothing behind that a later one could meet.
        """
        taken = self.taken(package)
        if taken is not None:
            raise taken
        if self not in sys.meta_path:
            # In front: a bare folder of the same name somewhere on the path counts as a package for Python.
            sys.meta_path.insert(0, self)
        new = {name: place for name, place in _names(package) if name not in self._places}
        self._places.update(new)
        self._claimed_by[package.name] = self._claimed_by.get(package.name, frozenset()) | new.keys()
        try:
            return importlib.import_module(package.name)
        except BaseException:
            self.forget(package)
            raise

    def forget(self, package: ModulePackage) -> None:
        """Take back what was claimed and imported for a package that turned out not to be a module."""
        names = self._claimed_by.pop(package.name, frozenset())
        for name in list(sys.modules):
            if name.partition(".")[0] in names:
                del sys.modules[name]
        for name in names:
            del self._places[name]


def _names(package: ModulePackage) -> Iterator[tuple[str, Path]]:
    """What the package may import of its own source: itself, and the packages and files beside it.

    A file that has the name of one of Python's own modules does not stand in for it.
    """
    yield package.name, package.folder
    if package.root is None:
        return
    for found in sorted(package.root.iterdir()):
        name = found.stem if found.suffix == ".py" else found.name
        is_importable = found.suffix == ".py" or (found / "__init__.py").is_file()
        if is_importable and name.isidentifier() and name not in _OTHERS and name != package.name:
            yield name, found


def _is_held_elsewhere(name: str, place: Path) -> bool:
    loaded = sys.modules.get(name)
    if loaded is not None:
        return not _is_at(getattr(loaded, "__file__", None), place)
    spec = importlib.util.find_spec(name)
    # Without an origin it is a bare folder that happens to have the name.
    return spec is not None and spec.origin is not None and not _is_at(spec.origin, place)


def _is_at(file: str | None, place: Path) -> bool:
    own = place if place.suffix == ".py" else place / "__init__.py"
    return file is not None and Path(file).resolve() == own.resolve()
