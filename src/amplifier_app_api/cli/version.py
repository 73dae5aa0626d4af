"""`amplifier-api version`."""

import platform

import typer

from amplifier_app_api import __version__
from amplifier_app_api.api.versions import installed


def version() -> None:
    """Say which versions run here."""
    core = installed("amplifier-core") or "missing"
    typer.echo(f"amplifier-api {__version__} (amplifier-core {core}, Python {platform.python_version()})")
