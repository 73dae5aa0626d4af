"""Configs and their texts as rows. A text, once stored, never changes; a Config points at its newest."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from amplifier_app_api.errors import Conflict
from amplifier_app_api.models.config import Config, ConfigMetadata, ConfigRevision
from amplifier_app_api.models.fields import format_time
from amplifier_app_api.models.page import InvalidPage, Page, PageRequest, make_cursor
from amplifier_app_api.storage.clock import utc_now
from amplifier_app_api.storage.filters import tag_filter
from amplifier_app_api.storage.idempotency import RequestKey, keep_key
from amplifier_app_api.storage.paging import moment_after, newest_first
from amplifier_app_api.storage.tables import config_revisions, configs, sessions

MAX_REVISION = 2**31 - 1


class ConfigInUse(Conflict):
    """Sessions run this Config; it cannot go while they exist."""

    code = "config_in_use"
    title = "The config is in use"

    def __init__(self, count: int) -> None:
        them = "1 session uses" if count == 1 else f"{count} sessions use"
        super().__init__(
            f"{them} this config. Delete them first, or send ?cascade=true to delete them with it.",
            facts={"sessions": count},
        )


def insert_config(
    conn: Connection,
    config_id: str,
    *,
    name: str,
    yaml_content: str,
    description: str | None,
    tags: dict[str, str],
    by: str,
    within: str,
    key: RequestKey | None = None,
) -> Config:
    """Store a new Config with its first text, and the key of the request: its answer without the text."""
    now = utc_now()
    config = Config(
        config_id=config_id,
        name=name,
        description=description,
        tags=tags,
        revision=1,
        version=1,
        sha256=sha256_of(yaml_content),
        created_at=now,
        updated_at=now,
        yaml_content=yaml_content,
    )
    conn.execute(
        insert(configs).values(
            config_id=config_id,
            tenant_id=within,
            name=name,
            description=description,
            tags=tags,
            revision=1,
            version=1,
            last_revision=1,
            created_at=now,
            updated_at=now,
        )
    )
    _insert_revision(conn, config, by=by, within=within)
    keep_key(conn, key, config_id, answer=config.model_dump(mode="json", exclude={"yaml_content"}))
    return config


def get_config(conn: Connection, config_id: str, *, within: str) -> Config | None:
    """The Config with its newest text, when the tenant has it."""
    statement = (
        select(configs, config_revisions.c.yaml_content, config_revisions.c.sha256)
        .join_from(
            configs,
            config_revisions,
            (config_revisions.c.config_id == configs.c.config_id) & (config_revisions.c.revision == configs.c.revision),
        )
        .where(configs.c.tenant_id == within, configs.c.config_id == config_id)
    )
    row = conn.execute(statement).mappings().first()
    return None if row is None else Config.model_validate(_fields(Config, row))


def list_configs(
    conn: Connection, page: PageRequest, *, within: str, name: str | None = None, tag: tuple[str, str] | None = None
) -> Page[ConfigMetadata]:
    """One page, newest change first, and the number of all that match. `name` is the whole name."""
    sha256 = (
        select(config_revisions.c.sha256)
        .where(config_revisions.c.config_id == configs.c.config_id, config_revisions.c.revision == configs.c.revision)
        .scalar_subquery()
    )
    statement = select(configs, sha256.label("sha256")).where(configs.c.tenant_id == within)
    if name is not None:
        statement = statement.where(configs.c.name == name)
    if tag is not None:
        statement = statement.where(tag_filter(configs.c.tags, tag, conn.dialect.name))
    rows, total, more = newest_first(
        conn, statement, page, moment=configs.c.updated_at, identity=configs.c.config_id, after=moment_after(page)
    )
    items = [ConfigMetadata.model_validate(_fields(ConfigMetadata, row._mapping)) for row in rows]  # pyright: ignore[reportPrivateUsage]
    last = items[-1] if more else None
    return Page(items, total, make_cursor(format_time(last.updated_at), last.config_id) if last else None)


def change_config(
    conn: Connection, config_id: str, change: Callable[[Config], Config], *, by: str, within: str
) -> Config | None:
    """Store what `change` makes of the Config, which nobody else changes meanwhile. None: there is none.

    Of its result, name, description, tags and text count. A new text is a new revision; nothing new is no
    change at all. `change` may refuse by raising.
    """
    last_revision = _lock(conn, config_id, within=within)
    before = None if last_revision is None else get_config(conn, config_id, within=within)
    if before is None or last_revision is None:
        return None
    wanted = change(before)
    new_text = wanted.yaml_content != before.yaml_content
    if not new_text and all(
        getattr(wanted, field) == getattr(before, field) for field in ("name", "description", "tags")
    ):
        return before
    after = wanted.model_copy(
        update={
            "revision": last_revision + 1 if new_text else before.revision,
            "version": before.version + 1,
            "sha256": sha256_of(wanted.yaml_content) if new_text else before.sha256,
            # Another machine's clock may be ahead of ours; the row's own time never goes back.
            "updated_at": max(utc_now(), before.updated_at + timedelta(microseconds=1)),
        }
    )
    conn.execute(
        update(configs)
        .where(configs.c.tenant_id == within, configs.c.config_id == config_id)
        .values(
            name=after.name,
            description=after.description,
            tags=after.tags,
            revision=after.revision,
            version=after.version,
            last_revision=max(last_revision, after.revision),
            updated_at=after.updated_at,
        )
    )
    if new_text:
        _insert_revision(conn, after, by=by, within=within)
    return after


@dataclass(frozen=True, slots=True)
class DeletedConfig:
    """What a delete removed: the Config, and these sessions with it."""

    session_ids: list[str]


def delete_config(
    conn: Connection, config_id: str, *, allow: Callable[[Config], None], cascade: bool, within: str
) -> DeletedConfig | None:
    """Remove a Config and its texts; with `cascade` its sessions too, else they are `ConfigInUse`.

    `allow` sees the Config first and may refuse by raising. None: there is none.
    """
    if _lock(conn, config_id, within=within) is None:
        return None
    config = get_config(conn, config_id, within=within)
    if config is None:
        return None
    allow(config)
    used_by = sessions_of_config(conn, config_id, within=within)
    if used_by and not cascade:
        raise ConfigInUse(len(used_by))
    if used_by:
        conn.execute(delete(sessions).where(sessions.c.tenant_id == within, sessions.c.config_id == config_id))
    conn.execute(delete(configs).where(configs.c.tenant_id == within, configs.c.config_id == config_id))
    return DeletedConfig(used_by)


def sessions_of_config(conn: Connection, config_id: str, *, within: str) -> list[str]:
    """The sessions that were made from a Config."""
    statement = select(sessions.c.session_id).where(sessions.c.tenant_id == within, sessions.c.config_id == config_id)
    return list(conn.execute(statement).scalars())


def get_revision(conn: Connection, config_id: str, revision: int, *, within: str) -> ConfigRevision | None:
    """One text of a Config."""
    if not 1 <= revision <= MAX_REVISION:
        return None
    statement = select(config_revisions).where(
        config_revisions.c.tenant_id == within,
        config_revisions.c.config_id == config_id,
        config_revisions.c.revision == revision,
    )
    row = conn.execute(statement).mappings().first()
    return None if row is None else ConfigRevision.model_validate(_fields(ConfigRevision, row))


def list_revisions(conn: Connection, config_id: str, page: PageRequest, *, within: str) -> Page[ConfigRevision] | None:
    """One page of a Config's texts, newest first. None: there is no such Config."""
    mine = (config_revisions.c.tenant_id == within) & (config_revisions.c.config_id == config_id)
    total = conn.execute(select(func.count()).select_from(config_revisions).where(mine)).scalar_one()
    if total == 0:  # every Config has at least one
        return None
    statement = select(config_revisions).where(mine).order_by(config_revisions.c.revision.desc()).limit(page.limit + 1)
    before = _revision_after(page)
    statement = (
        statement.offset(page.offset) if before is None else statement.where(config_revisions.c.revision < before)
    )
    rows = conn.execute(statement).mappings().all()
    items = [ConfigRevision.model_validate(_fields(ConfigRevision, row)) for row in rows[: page.limit]]
    more = len(rows) > page.limit
    return Page(items, total, make_cursor(str(items[-1].revision), config_id) if more else None)


def sha256_of(text: str) -> str:
    """The checksum of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def _lock(conn: Connection, config_id: str, *, within: str) -> int | None:
    """Hold the row until the commit, and its highest revision number.

    A statement of its own: PostgreSQL, having waited for a lock, looks at the locked row again but not at
    what it was joined with.
    """
    statement = (
        select(configs.c.last_revision)
        .where(configs.c.tenant_id == within, configs.c.config_id == config_id)
        .with_for_update()
    )
    return conn.execute(statement).scalar_one_or_none()


def _insert_revision(conn: Connection, config: Config, *, by: str, within: str) -> None:
    conn.execute(
        insert(config_revisions).values(
            config_id=config.config_id,
            revision=config.revision,
            tenant_id=within,
            yaml_content=config.yaml_content,
            sha256=config.sha256,
            created_at=config.updated_at,
            created_by=by,
        )
    )


def _fields(model: type[ConfigMetadata] | type[ConfigRevision], row: RowMapping) -> dict[str, Any]:
    return {name: row[name] for name in model.model_fields}


def _revision_after(page: PageRequest) -> int | None:
    after = page.after()
    if after is None:
        return None
    if not after[0].isascii() or not after[0].isdigit() or len(after[0]) > 10:
        raise InvalidPage("cursor is not one that this list made")
    return int(after[0])
