"""What a folder that a `source:` names must hold to be a Python module of Amplifier."""

import re
from dataclasses import dataclass
from pathlib import Path

from .toml import toml_of
from .values import is_mapping

PREFIX = "amplifier_module_"

_MOUNT = re.compile(r"\bmount\b")
_MAX_SCANNED = 1 << 20
_MAX_TOML = 1 << 16


@dataclass(frozen=True, slots=True)
class ModulePackage:
    """The Python package of a module: the name it is imported by, and its folder.

    `root` is the folder around it whose other packages are its as well; nothing when the source itself is the
    package.
    """

    name: str
    folder: Path
    root: Path | None


def find_package(folder: Path, module: str) -> ModulePackage | None:
    """The package of a module's folder: the one named after the module, a single other one, or the folder itself.

    A `src` folder is looked into as well. A folder that is itself the package is imported by the name of the
    module unless its own name is that of a package: what a cache calls it means nothing. Looks at the disk.
    """
    named = f"{PREFIX}{module.replace('-', '_')}"
    roots = (folder, folder / "src")
    for root in roots:
        if (root / named / "__init__.py").is_file():
            return ModulePackage(named, root / named, root)
    if _defines_mount(folder / "__init__.py"):
        return ModulePackage(folder.name if folder.name.startswith(PREFIX) else named, folder, None)
    for root in roots:
        packages = [found.parent for found in root.glob(f"{PREFIX}*/__init__.py") if found.is_file()]
        if len(packages) == 1:
            return ModulePackage(packages[0].name, packages[0], root)
    return None


def transport_of(folder: Path) -> str:
    """How the module is run, from its `amplifier.toml`: `python` unless it says otherwise. `ValueError`: unreadable."""
    file = folder / "amplifier.toml"
    if not file.is_file():
        return "python"
    with file.open("rb") as source:
        data = toml_of(source.read(_MAX_TOML))
    section = data.get("module")
    return str(section.get("transport", "python")) if is_mapping(section) else "python"


def _defines_mount(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open(encoding="utf-8", errors="replace") as source:
        return _MOUNT.search(source.read(_MAX_SCANNED)) is not None
