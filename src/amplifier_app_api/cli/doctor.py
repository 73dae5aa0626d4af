"""`amplifier-api doctor`: can this machine run it?"""

import asyncio
import importlib
import os
import platform
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import typer

from amplifier_app_api.api.versions import installed
from amplifier_app_api.cli.options import Data, DatabaseUrl, settings_from
from amplifier_app_api.settings import PROVIDER_KEYS, Settings, unknown_variables

FIXED_WAL = (3, 51, 3)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. A `problem` keeps the service from working."""

    about: str
    verdict: Literal["ok", "note", "problem"]
    detail: str


def doctor(data: Data = None, database_url: DatabaseUrl = None) -> None:
    """Look at everything the service needs, and say what is missing. Ends with 1 when it cannot run."""
    settings = settings_from(data_dir=data, database_url=database_url)
    findings = list(_findings(settings))
    for finding in findings:
        typer.echo(f"{finding.verdict:8}{finding.about:14}{finding.detail}")
    raise typer.Exit(int(any(finding.verdict == "problem" for finding in findings)))


def _findings(settings: Settings) -> Iterator[Finding]:
    yield _python()
    yield _kernel()
    yield _sqlite()
    yield _data_folder(settings.data_dir)
    yield _database(settings)
    yield from _source_roots(settings)
    yield _anthropic()
    yield _provider_keys()
    for sentence in unknown_variables(os.environ):
        yield Finding("settings", "note", sentence)


def _python() -> Finding:
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Finding("Python", "ok" if fits else "problem", f"{platform.python_version()} (3.11, 3.12 or 3.13 is needed)")


def _kernel() -> Finding:
    try:
        importlib.import_module("amplifier_core")
    except ImportError as problem:
        return Finding("kernel", "problem", f"amplifier-core cannot be imported: {problem}")
    return Finding("kernel", "ok", f"amplifier-core {installed('amplifier-core')}")


def _sqlite() -> Finding:
    if sqlite3.sqlite_version_info >= FIXED_WAL:
        return Finding("SQLite", "ok", sqlite3.sqlite_version)
    detail = f"{sqlite3.sqlite_version} has a flaw in its log, fixed in 3.51.3: no other program should write the file"
    return Finding("SQLite", "note", detail)


def _data_folder(folder: Path) -> Finding:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as problem:
        return Finding("data folder", "problem", f"{there} cannot be written: {problem.strerror}")
    return Finding("data folder", "ok", str(folder) if there == folder else f"{folder} will be made")


def _database(settings: Settings) -> Finding:
    from amplifier_app_api.cli.database import UnreadableDatabase, schema_in
    from amplifier_app_api.storage.migrate import HEAD

    try:
        where, schema = asyncio.run(schema_in(settings))
    except UnreadableDatabase as problem:
        return Finding("database", "problem", problem.detail)
    if schema is None:
        return Finding("database", "ok", f"{where} is empty or will be made")
    if schema > HEAD:
        return Finding("database", "problem", f"{where} has schema {schema}, this program knows up to {HEAD}")
    return Finding("database", "ok", f"{where} has schema {schema}" + ("" if schema == HEAD else ", will be upgraded"))


def _source_roots(settings: Settings) -> Iterator[Finding]:
    for root in settings.source_roots:
        there = root.is_dir() and os.access(root, os.R_OK | os.X_OK)
        yield Finding("source root", "ok" if there else "problem", f"{root}" + ("" if there else " cannot be read"))


def _anthropic() -> Finding:
    found = installed("anthropic")
    if found is None:
        return Finding("anthropic", "note", "the SDK is not installed: provider-anthropic cannot run")
    return Finding("anthropic", "ok", f"SDK {found}")


def _provider_keys() -> Finding:
    present = [name for name in PROVIDER_KEYS if os.environ.get(name)]
    return Finding("keys", "ok", ", ".join(present)) if present else Finding("keys", "note", "no provider key is set")
