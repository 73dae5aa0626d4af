"""What can be done with Configs: the use cases behind `/configs`, usable alone.

    async with Database("app.db") as db:
        config = await ConfigManager(db).create_config("dev", "bundle:\n  name: dev\n")

Every text passes the bar of `check_storable` and is kept as it came. What is not there is None (or False for
`delete_config`); what may not be is an error. `if_match` is the text of an `If-Match` header.
"""

import asyncio
import copy
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Self, TypeVar
from weakref import WeakValueDictionary

from amplifier_app_api.bundles import DocumentLimits, Edit, check_storable, dump_yaml, parse_yaml
from amplifier_app_api.core.config_edits import TextEdit, include_edit, provider_edit, tool_edit
from amplifier_app_api.core.fields import InvalidFields, is_storable, merged_tags, tag_pair, valid
from amplifier_app_api.core.if_match import IfMatch
from amplifier_app_api.errors import Conflict, NotFound
from amplifier_app_api.models.config import (
    Config,
    ConfigCreateRequest,
    ConfigMetadata,
    ConfigPatchRequest,
    ConfigRevision,
    ConfigUpdateRequest,
)
from amplifier_app_api.models.page import DEFAULT_LIMIT, Page, PageRequest
from amplifier_app_api.models.principal import LOCAL, Principal
from amplifier_app_api.storage import configs as store
from amplifier_app_api.storage.configs import ConfigInUse
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.idempotency import KeptAnswer, RequestKey

__all__ = [
    "ConfigContended",
    "ConfigInUse",
    "ConfigManager",
    "ConfigNotFound",
    "RevisionNotFound",
]

T = TypeVar("T")

PARSED_AT_ONCE = 2048
"""Texts up to this many characters are parsed where they are; longer ones in a thread, so that nobody waits."""

EDIT_TRIES = 100

OnSessions = Callable[[list[str], str], Awaitable[None]]
"""Called with sessions that go with their Config, and their tenant."""


class ConfigNotFound(NotFound):
    """There is no such Config, or another tenant has it."""

    code = "config_not_found"
    title = "The config does not exist"

    def __init__(self, config_id: str) -> None:
        super().__init__(f"There is no config {config_id[:200]!r}.")


class RevisionNotFound(NotFound):
    """The Config has no revision of this number."""

    code = "revision_not_found"
    title = "The revision does not exist"

    def __init__(self, revision: int) -> None:
        super().__init__(f"The config has no revision {revision}.")


class ConfigContended(Conflict):
    """Others changed the text faster than this edit could be made."""

    title = "The config changes too fast"


class ConfigManager:
    """The Configs of one tenant: `principal`'s.

    `on_cascade` is called before sessions go with their Config: it stops what runs. `on_gone` is called when they are
    gone, also with those that were opened in between: it removes what they left.
    """

    def __init__(
        self,
        db: Database,
        *,
        principal: Principal = LOCAL,
        limits: DocumentLimits | None = None,
        on_cascade: OnSessions | None = None,
        on_gone: OnSessions | None = None,
    ) -> None:
        self._db = db
        self._principal = principal
        self._limits = limits or DocumentLimits()
        self._on_cascade = on_cascade
        self._on_gone = on_gone
        # Edits of one Config made here queue up instead of redoing each other's work.
        self._edits: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def scoped(self, principal: Principal) -> Self:
        """The same manager for another caller."""
        scoped = copy.copy(self)
        scoped._principal = principal
        return scoped

    # --- create, read, change, delete ---

    async def create_config(
        self,
        name: str,
        yaml_content: str,
        description: str | None = None,
        tags: dict[str, str] | None = None,
        *,
        key: RequestKey | None = None,
    ) -> Config:
        """Store a bundle. A text that is no storable bundle is an `Invalid`, a ValueError. `key` is kept with it."""
        fields = valid(
            ConfigCreateRequest, {"name": name, "yaml_content": yaml_content, "description": description, "tags": tags}
        )
        await self._check(fields.yaml_content)
        return await self._db.write(
            store.insert_config,
            str(uuid.uuid4()),
            name=fields.name,
            yaml_content=fields.yaml_content,
            description=fields.description,
            tags=fields.tags or {},
            by=self._principal.subject,
            within=self._principal.tenant_id,
            key=key,
        )

    async def created_before(self, kept: KeptAnswer) -> Config:
        """The Config that a request with the same key created, as it was then. Deleted since: `ConfigNotFound`."""
        first = await self.get_revision(kept.resource_id, kept.answer["revision"])
        if first is None:
            raise ConfigNotFound(kept.resource_id)
        return Config.model_validate({**kept.answer, "yaml_content": first.yaml_content})

    async def get_config(self, config_id: str) -> Config | None:
        """The Config with its newest text."""
        if not is_storable(config_id):
            return None
        return await self._db.read(store.get_config, config_id, within=self._principal.tenant_id)

    async def update_config(
        self,
        config_id: str,
        name: str | None = None,
        yaml_content: str | None = None,
        description: str | None = None,
        tags: dict[str, str] | None = None,
        *,
        if_match: str | None = None,
    ) -> Config | None:
        """Change what is given; None leaves a field as it is, `tags` replaces all of them. The last writer wins."""
        fields = valid(
            ConfigUpdateRequest, {"name": name, "yaml_content": yaml_content, "description": description, "tags": tags}
        )
        if fields.yaml_content is not None:
            await self._check(fields.yaml_content)
        given = fields.model_dump(exclude_none=True)
        return await self._change(config_id, lambda config: config.model_copy(update=given), if_match)

    async def patch_config(
        self, config_id: str, changes: Mapping[str, Any], *, if_match: str | None = None
    ) -> Config | None:
        """Apply a JSON merge patch: null clears the description, a tag, or all tags; other tags stay."""
        fields = valid(ConfigPatchRequest, changes)
        given = {name: getattr(fields, name) for name in fields.model_fields_set}
        for name in ("name", "yaml_content"):
            if name in given and given[name] is None:
                raise InvalidFields.of(name, "cannot be cleared")
        if fields.yaml_content is not None:
            await self._check(fields.yaml_content)

        def patched(config: Config) -> Config:
            if "tags" not in given:
                return config.model_copy(update=given)
            return config.model_copy(update={**given, "tags": merged_tags(config.tags, fields.tags)})

        return await self._change(config_id, patched, if_match)

    async def delete_config(self, config_id: str, *, if_match: str | None = None, cascade: bool = False) -> bool:
        """Remove the Config. With sessions it is `ConfigInUse`, unless `cascade` removes them too."""
        if not is_storable(config_id):
            return False
        expected = IfMatch.parse(if_match)
        if cascade:
            await self._stop_sessions(config_id, expected)
        deleted = await self._db.write(
            store.delete_config, config_id, allow=expected.check, cascade=cascade, within=self._principal.tenant_id
        )
        if deleted is None:
            return False
        if deleted.session_ids and self._on_gone is not None:
            await self._on_gone(sorted(deleted.session_ids), self._principal.tenant_id)
        return True

    async def list_configs(
        self,
        limit: int = DEFAULT_LIMIT,
        offset: int = 0,
        *,
        cursor: str | None = None,
        name: str | None = None,
        tag: str | None = None,
    ) -> tuple[list[ConfigMetadata], int]:
        """One page, the latest change first, and the number of all that match."""
        page = await self.page_configs(PageRequest(limit, offset, cursor), name=name, tag=tag)
        return page.items, page.total

    async def page_configs(
        self, page: PageRequest, *, name: str | None = None, tag: str | None = None
    ) -> Page[ConfigMetadata]:
        """`list_configs` with the place where the next page begins. `name` is a whole name, `tag` is `key=value`."""
        if name is not None and not is_storable(name):
            raise InvalidFields.of("name", "is not a text that can be stored")
        return await self._db.read(
            store.list_configs, page, within=self._principal.tenant_id, name=name, tag=tag_pair(tag)
        )

    # --- YAML ---

    def parse_yaml(self, yaml_content: str) -> dict[str, Any]:
        """The mapping a YAML text holds. Anything else is an `Invalid`, a ValueError."""
        return parse_yaml(yaml_content, self._limits)

    def dump_yaml(self, data: dict[str, Any]) -> str:
        """YAML text that reads back as the same data."""
        return dump_yaml(data)

    # --- edits: the text is the caller's, so only lines are added to it ---

    async def add_tool_to_config(
        self,
        config_id: str,
        module: str,
        source: str | None = None,
        config: dict[str, Any] | None = None,
        *,
        replace: bool = False,
        if_match: str | None = None,
    ) -> Config | None:
        """Append a tool. One of the same identity is `ModuleExists`, unless `replace` merges the two."""
        edit = tool_edit(module, source, config, replace=replace)
        return _config_of(await self.edit_config(config_id, edit, if_match=if_match))

    async def add_provider_to_config(
        self,
        config_id: str,
        module: str,
        source: str | None = None,
        config: dict[str, Any] | None = None,
        *,
        replace: bool = False,
        if_match: str | None = None,
    ) -> Config | None:
        """Append a provider. One of the same identity is `ModuleExists`, unless `replace` merges the two."""
        edit = provider_edit(module, source, config, replace=replace)
        return _config_of(await self.edit_config(config_id, edit, if_match=if_match))

    async def merge_bundle_into_config(
        self, config_id: str, bundle_uri: str, *, replace: bool = False, if_match: str | None = None
    ) -> Config | None:
        """Append an include. One that is there already is `ModuleExists`, unless `replace` leaves it."""
        edit = include_edit(bundle_uri, replace=replace)
        return _config_of(await self.edit_config(config_id, edit, if_match=if_match))

    async def edit_config(
        self, config_id: str, edit: TextEdit, *, if_match: str | None = None
    ) -> tuple[Config, Edit] | None:
        """Apply an edit to the newest text, and tell how it was made.

        Without `if_match` an edit that meets another is made again on what the other left, so none is lost.
        """
        expected = IfMatch.parse(if_match)
        lock = self._edits.setdefault(config_id, asyncio.Lock())
        async with lock:
            for _ in range(EDIT_TRIES):
                before = await self.get_config(config_id)
                if before is None:
                    return None
                expected.check(before)
                made = await _parsing(before.yaml_content, partial(self._edited, edit, before.yaml_content))
                try:
                    after = await self._change(config_id, partial(_with_text, made.text, instead_of=before), if_match)
                except _TextMoved:
                    continue
                return None if after is None else (after, made)
        raise ConfigContended("Others keep changing this config; try again.")

    # --- revisions ---

    async def list_revisions(self, config_id: str, page: PageRequest) -> Page[ConfigRevision] | None:
        """One page of the texts the Config had, newest first."""
        if not is_storable(config_id):
            return None
        return await self._db.read(store.list_revisions, config_id, page, within=self._principal.tenant_id)

    async def get_revision(self, config_id: str, revision: int) -> ConfigRevision | None:
        """One text the Config had."""
        if not is_storable(config_id):
            return None
        return await self._db.read(store.get_revision, config_id, revision, within=self._principal.tenant_id)

    async def revert_config(self, config_id: str, revision: int, *, if_match: str | None = None) -> Config | None:
        """Store an old text again, as a new revision. A number it never had is `RevisionNotFound`."""
        old = await self.get_revision(config_id, revision)
        if old is None:
            if await self.get_config(config_id) is None:
                return None
            raise RevisionNotFound(revision)
        text = old.yaml_content
        await self._check(text)
        return await self._change(config_id, lambda config: config.model_copy(update={"yaml_content": text}), if_match)

    # --- inside ---

    async def _change(self, config_id: str, change: Callable[[Config], Config], if_match: str | None) -> Config | None:
        if not is_storable(config_id):
            return None
        expected = IfMatch.parse(if_match)

        def checked(config: Config) -> Config:
            expected.check(config)
            return change(config)

        return await self._db.write(
            store.change_config, config_id, checked, by=self._principal.subject, within=self._principal.tenant_id
        )

    async def _check(self, text: str) -> None:
        await _parsing(text, partial(check_storable, text, self._limits))

    def _edited(self, edit: TextEdit, text: str) -> Edit:
        made = edit(text, self._limits)
        check_storable(made.text, self._limits)
        return made

    async def _stop_sessions(self, config_id: str, expected: IfMatch) -> None:
        config = await self.get_config(config_id)
        if config is None:
            return
        expected.check(config)  # before anything is stopped
        ids = await self._db.read(store.sessions_of_config, config_id, within=self._principal.tenant_id)
        if ids and self._on_cascade is not None:
            await self._on_cascade(ids, self._principal.tenant_id)


class _TextMoved(Exception):
    """The text an edit was made from is not the newest any more."""


def _with_text(text: str, config: Config, *, instead_of: Config) -> Config:
    if config.revision != instead_of.revision:
        raise _TextMoved
    return config.model_copy(update={"yaml_content": text})


def _config_of(edited: tuple[Config, Edit] | None) -> Config | None:
    return None if edited is None else edited[0]


async def _parsing(text: str, work: Callable[[], T]) -> T:
    return work() if len(text) <= PARSED_AT_ONCE else await asyncio.to_thread(work)
