"""`amplifier-api migrate-legacy`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from amplifier_app_api.cli.options import Data, DatabaseUrl
from amplifier_app_api.errors import AppError
from amplifier_app_api.observability.logs import configure_logging
from amplifier_app_api.settings import InvalidSettings, Settings, load_settings

if TYPE_CHECKING:
    from amplifier_app_api.core.legacy import Report
    from amplifier_app_api.storage.database import Database


def migrate_legacy(
    database: Annotated[Path, typer.Argument(metavar="DATABASE", help="The predecessor's SQLite file; only read")],
    data: Data = None,
    database_url: DatabaseUrl = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write; without it nothing is written, only told")] = False,
) -> None:
    """Carry over the configs and sessions of the predecessor. Ends with 1 when something had to be left behind."""
    from amplifier_app_api.core.legacy import NotLegacy
    from amplifier_app_api.storage.address import InvalidDatabaseAddress

    given = {"data_dir": data, "database_url": database_url}
    try:
        settings = load_settings(**{name: value for name, value in given.items() if value is not None})
        configure_logging(settings.log_level, settings.log_format)
        report = asyncio.run(_migrate(database, settings, apply=apply))
    except (InvalidSettings, AppError) as problem:
        _stop(problem.detail)
    except (NotLegacy, InvalidDatabaseAddress) as problem:
        _stop(str(problem))
    _tell(report, apply=apply)
    raise typer.Exit(int(bool(report.incomplete)))


async def _migrate(path: Path, settings: Settings, *, apply: bool) -> "Report":
    from amplifier_app_api.bundles import DocumentLimits
    from amplifier_app_api.core.legacy import LegacyDatabase, Target, migrate

    limits = DocumentLimits(max_bytes=settings.max_document_bytes)
    with LegacyDatabase.open(path) as source:
        async with _opened(settings, apply=apply) as db:
            return await migrate(source, Target(db, apply=apply), limits=limits)


@asynccontextmanager
async def _opened(settings: Settings, *, apply: bool) -> "AsyncGenerator[Database | None]":
    """The database to carry to, with the lock that keeps servers away; None in a dry run that finds none."""
    from amplifier_app_api.cli.database import schema_in
    from amplifier_app_api.cluster.server_lock import server_lock
    from amplifier_app_api.storage.database import Database
    from amplifier_app_api.storage.migrate import HEAD

    if not apply:
        where, schema = await schema_in(settings)
        if schema is None:
            yield None
            return
        if schema != HEAD:
            _stop(f"{where} has schema {schema} and this program {HEAD}: let its server start once, or say --apply")
    db = Database(settings.database_url or settings.data_dir / "app.db")
    async with AsyncExitStack() as stack:
        # Before the database is opened: a second writer beside a server's is what the lock is for.
        await stack.enter_async_context(server_lock(db, settings.data_dir))
        yield await stack.enter_async_context(db)


def _tell(report: "Report", *, apply: bool) -> None:
    for entry in report.incomplete:
        typer.echo(f"{entry.verdict}: {entry.kind} {entry.identity}: {'; '.join(entry.reasons)}")
    for kind, counts in report.counts().items():
        told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        typer.echo(f"{kind + 's':10}{told}")
    if not report.entries:
        typer.echo("there is nothing to carry")
    if not apply:
        typer.echo("This was a dry run and nothing was written; --apply writes.")


def _stop(sentence: str) -> NoReturn:
    typer.echo(f"amplifier-api: {sentence}", err=True)
    raise typer.Exit(2)
