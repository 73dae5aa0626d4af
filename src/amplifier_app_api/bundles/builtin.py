"""The bundles that ship with this package and need neither a source nor a network."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

BUILTIN_FOLDER = Path(__file__).resolve().parent / "builtin"

BUILTIN_BUNDLES: Mapping[str, Path] = MappingProxyType(
    {
        "foundation": BUILTIN_FOLDER / "foundation" / "bundle.md",
        "foundation-default": BUILTIN_FOLDER / "default_config.yaml",
    }
)


def default_config_text() -> str:
    """The text of the config `foundation-default` that a new server starts with."""
    return (BUILTIN_FOLDER / "default_config.yaml").read_text("utf-8")
