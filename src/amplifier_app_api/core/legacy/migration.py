"""One row after the other: names first, then Configs, then the sessions that refer to them.

What is there already stays as it is, so a migration can be run again after something was put right.
"""

import re
from typing import Any, cast

from amplifier_app_api.bundles import DocumentLimits, check_storable
from amplifier_app_api.core.bundle_names import checked_name, checked_uri
from amplifier_app_api.core.legacy.composing import ComposedConfig, compose_config
from amplifier_app_api.core.legacy.report import Report, Verdict
from amplifier_app_api.core.legacy.row import CannotCarry, Row
from amplifier_app_api.core.legacy.settings import LegacySettings, read_settings
from amplifier_app_api.core.legacy.source import TEXT_COLUMNS, LegacyDatabase
from amplifier_app_api.core.legacy.target import Target
from amplifier_app_api.core.legacy.transcript import messages_of
from amplifier_app_api.errors import AppError
from amplifier_app_api.models.session import SessionStatus
from amplifier_app_api.storage.imports import ImportedConfig, ImportedSession

METADATA = ("bundle", "provider", "model", "config_id", "created_at", "updated_at", "message_count", "tags")
"""What an older session's metadata is known to hold."""

_SEALED = re.compile(r"\benc:gAAAAA")


async def migrate(source: LegacyDatabase, target: Target, *, limits: DocumentLimits) -> Report:
    """Carry everything that has a place here, and tell what became of each row."""
    report = Report()
    for table, count in source.unknown_tables():
        report.add("table", table, Verdict.NOT_CARRIED, [f"nothing here has a place for its {_rows(count)}"])
    for table, column, count in source.unknown_columns():
        reason = f"nothing here has a place for it ({_rows(count)})"
        report.add("column", f"{table}.{column}", Verdict.NOT_CARRIED, [reason])
    migration = _Migration(target, limits, report, read_settings(source.rows("configuration"), report))
    await migration.carry_bundles()
    for row in source.rows("configs"):
        await migration.carry_config(row)
    for row in source.rows("sessions"):
        await migration.carry_session(row)
    migration.tell_unused_settings()
    return report


class _Migration:
    """The way of single rows."""

    def __init__(self, target: Target, limits: DocumentLimits, report: Report, settings: LegacySettings) -> None:
        self._target = target
        self._limits = limits
        self._report = report
        self._settings = settings
        self._refused: set[str] = set()
        self._composed_any = False

    async def carry_bundles(self) -> None:
        """Register the names that older programs knew."""
        for name, uri in self._settings.bundles.items():
            if await self._target.has_bundle(name):
                self._report.add("bundle", name, Verdict.THERE)
                continue
            try:
                await self._target.add_bundle(checked_name(name), checked_uri(uri))
            except AppError as refusal:
                self._report.add("bundle", name, Verdict.NOT_CARRIED, [refusal.detail])
            else:
                self._report.add("bundle", name, Verdict.CARRIED)

    async def carry_config(self, row: Row) -> None:
        """A Config as it was stored."""
        identity = row.shown("config_id")
        try:
            if await self._target.has_config(row.text("config_id")):
                self._report.add("config", identity, Verdict.THERE)
                return
            await self._target.add_config(self._config(row))
        except CannotCarry as problem:
            self._refused.add(identity)
            self._report.add("config", identity, Verdict.NOT_CARRIED, [str(problem), *row.notes])
        else:
            self._report.add("config", identity, Verdict.CARRIED, row.notes)

    def _config(self, row: Row) -> ImportedConfig:
        text = next((row.text(column) for column in TEXT_COLUMNS if row.get(column)), None)
        if text is None:
            raise CannotCarry("it has no text")
        self._check(text)
        if _SEALED.search(text):
            row.note("it holds values that only the predecessor's key opens: write them anew")
        created, updated = row.times()
        return ImportedConfig(
            config_id=row.text("config_id"),
            name=row.name("name"),
            yaml_content=text,
            description=row.description("description"),
            tags=row.tags(row.json_object("tags")),
            created_at=created,
            updated_at=updated,
        )

    async def carry_session(self, row: Row) -> None:
        """A session with its transcript; an older one with a Config made from what it stored itself."""
        identity = row.shown("session_id")
        try:
            if await self._target.has_session(row.text("session_id")):
                self._report.add("session", identity, Verdict.THERE)
                return
            session, made = await self._session(row)
            if made is not None:
                await self._carry_made(made, session)
            await self._target.add_session(session)
        except CannotCarry as problem:
            self._report.add("session", identity, Verdict.NOT_CARRIED, [str(problem), *row.notes])
        else:
            self._report.add("session", identity, Verdict.CARRIED, row.notes)

    async def _session(self, row: Row) -> tuple[ImportedSession, ComposedConfig | None]:
        config_id, made = row.optional_text("config_id"), None
        if config_id is None:
            made = compose_config(row, self._settings)
            config_id = made.config_id
            self._composed_any = True
        elif not await self._target.has_config(config_id):
            known = "could not be carried" if config_id in self._refused else "is not there"
            raise CannotCarry(f"its config {config_id} {known}")
        created, updated = row.times()
        session = ImportedSession(
            session_id=row.text("session_id"),
            config_id=config_id,
            status=_status(row),
            tags=_tags(row),
            created_at=created,
            updated_at=updated,
            messages=messages_of(row, since=created),
        )
        return session, made

    async def _carry_made(self, made: ComposedConfig, session: ImportedSession) -> None:
        """Store the Config of an older session, the first of those that share it."""
        if await self._target.has_config(made.config_id):
            return
        self._check(made.text)
        await self._target.add_config(
            ImportedConfig(
                config_id=made.config_id,
                name=made.name,
                yaml_content=made.text,
                description="Made from what older sessions stored themselves.",
                tags={"migrated": "true"},
                created_at=session.created_at,
                updated_at=session.created_at,
            )
        )
        self._report.add("config", made.config_id, Verdict.CARRIED)

    def tell_unused_settings(self) -> None:
        """What was active matters to older sessions only."""
        if self._composed_any:
            return
        for key in ("active_bundle", "active_provider"):
            if getattr(self._settings, key) is not None:
                reason = "nothing is active here: a config names what it includes"
                self._report.add("setting", key, Verdict.NOT_CARRIED, [reason])

    def _check(self, text: str) -> None:
        try:
            check_storable(text, self._limits)
        except AppError as refusal:
            line = refusal.items[0].line if refusal.items else None
            place = f" (line {line})" if line and "(line " not in refusal.detail else ""
            raise CannotCarry(refusal.detail + place) from None


def _status(row: Row) -> SessionStatus:
    text = row.shown("status").lower()
    try:
        return SessionStatus(text)
    except ValueError:
        row.note(f"its status {text[:50]!r} is not one: it is active now")
        return SessionStatus.ACTIVE


def _tags(row: Row) -> dict[str, str]:
    """The tags of a session, which older programs kept in its metadata beside a copy of its columns."""
    metadata = row.json_object("metadata")
    for key, value in metadata.items():
        if key not in METADATA and value not in (None, "", {}, []):
            row.note(f"its metadata {key[:50]!r} has no place here")
    tags: Any = metadata.get("tags")
    return row.tags(cast("dict[str, Any]", tags) if isinstance(tags, dict) else row.json_object("tags"))


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
