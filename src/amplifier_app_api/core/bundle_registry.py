"""The names that a tenant's documents may include: built in, or registered for a URI.

    async with Database("app.db") as db:
        await BundleRegistry(db).register_bundle("git+https://github.com/our/tools@main", name="our-tools")

A name says where to look, and is looked up when a session is opened: replacing one changes what the next opening
finds, deleting one that configs include makes their next opening a `bundle_not_found`. Whether this server may
read a URI is found out then too, for the operator's list may change.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from amplifier_app_api.bundles import BUILTIN_BUNDLES, Sources
from amplifier_app_api.bundles.fetched import FetchOnce
from amplifier_app_api.bundles.includes import Loaded, load_source
from amplifier_app_api.bundles.sources import Hold
from amplifier_app_api.bundles.waiting import in_waiting_thread
from amplifier_app_api.core.bundle_names import BundleExists, checked_name, checked_uri, name_of
from amplifier_app_api.core.fields import InvalidFields, is_storable, valid
from amplifier_app_api.errors import Conflict, ErrorItem, NotFound, Unprocessable
from amplifier_app_api.models.bundle import BundleRegisterRequest, RegisteredBundle
from amplifier_app_api.models.page import InvalidPage, Page, PageRequest, make_cursor
from amplifier_app_api.models.principal import LOCAL, Principal
from amplifier_app_api.storage import bundle_names as store
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.idempotency import KeptAnswer, RequestKey, keep_key

__all__ = ["BuiltInBundle", "BundleExists", "BundleNotFound", "BundleRegistry", "BundleUnresolved", "Refreshed"]

MAX_NAMES = 1000
"""Names of one tenant: all of them are read whenever one of its sessions is opened."""

PUT_TRIES = 2

SourcesOf = Callable[[Mapping[str, str], Hold], Sources]
"""From names to where they lead; what is fetched on the way stays until the hold is closed."""


class BundleNotFound(NotFound):
    """No bundle has this name, or another tenant's has."""

    code = "bundle_not_found"
    title = "The bundle does not exist"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no bundle with the name {name[:200]!r}.")


class BuiltInBundle(Conflict):
    """The bundle came with this server and cannot go."""

    title = "The bundle is built in"

    def __init__(self, name: str) -> None:
        super().__init__(f"The bundle {name!r} is built in and cannot be deleted.")


class TooManyBundles(Conflict):
    """The tenant has as many names as it may."""

    title = "There are too many names"

    def __init__(self) -> None:
        super().__init__(f"There may be {MAX_NAMES} names; delete one first.")


class BundleUnresolved(Unprocessable):
    """What the name stands for cannot be read; the items say why, each with its code."""

    code = "bundle_unresolved"
    title = "The bundle cannot be read"

    def __init__(self, items: tuple[ErrorItem, ...]) -> None:
        super().__init__(items[0].detail if items else self.title, items=items)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a name leads to now. `commit` is there when the source is git."""

    bundle: RegisteredBundle
    sha256: str
    commit: str | None
    problems: tuple[ErrorItem, ...]


def local_sources(names: Mapping[str, str], hold: Hold) -> Sources:
    """Where names lead without a server: to built-in bundles only."""
    return Sources(names=names)


class BundleRegistry:
    """The names of one tenant: `principal`'s.

    `sources` says where documents may lead on this server; `on_refresh` is told the tenant whose prepared
    bundles may be out of date.
    """

    def __init__(
        self,
        db: Database,
        *,
        principal: Principal = LOCAL,
        sources: SourcesOf = local_sources,
        on_refresh: Callable[[str], None] | None = None,
    ) -> None:
        self._db = db
        self._principal = principal
        self._sources = sources
        self._on_refresh = on_refresh

    def scoped(self, principal: Principal) -> Self:
        """The same registry for another caller."""
        scoped = copy.copy(self)
        scoped._principal = principal
        return scoped

    @property
    def _tenant(self) -> str:
        return self._principal.tenant_id

    async def register_bundle(
        self,
        uri: str,
        *,
        name: str | None = None,
        description: str | None = None,
        replace: bool = False,
        key: RequestKey | None = None,
    ) -> tuple[RegisteredBundle, bool]:
        """Let `name` stand for `uri`, and say whether it is new. Without a name the URI's last part is it.

        A name that is taken is `BundleExists`; `replace` gives it the new URI, unless it is built in. `key` is kept
        with it.
        """
        valid(BundleRegisterRequest, {"description": description})
        checked_uri(uri)
        chosen = checked_name(_suggested(uri) if name is None else name)

        def allow(before: RegisteredBundle | None, count: int) -> None:
            if before is not None and not replace:
                raise BundleExists.registered(chosen)
            if before is None and count >= MAX_NAMES:
                raise TooManyBundles

        def put(conn: Connection) -> tuple[RegisteredBundle, bool]:
            bundle, is_new = store.put_bundle(
                conn, chosen, uri=uri, description=description, allow=allow, within=self._tenant
            )
            keep_key(conn, key, chosen, answer={"bundle": bundle.model_dump(mode="json"), "is_new": is_new})
            return bundle, is_new

        for _ in range(PUT_TRIES):
            try:
                return await self._db.write(put)
            except IntegrityError:  # somebody else brought the name meanwhile: now it is there to be replaced
                continue
        raise BundleExists.registered(chosen)

    async def registered_before(self, kept: KeptAnswer) -> tuple[RegisteredBundle, bool]:
        """What a request with the same key registered, as it was then."""
        return RegisteredBundle.model_validate(kept.answer["bundle"]), kept.answer["is_new"]

    async def get_bundle(self, name: str) -> RegisteredBundle | None:
        """What a name stands for."""
        if name in BUILTIN_BUNDLES:
            return _builtin(name)
        if not is_storable(name):
            return None
        return await self._db.read(store.get_bundle, name, within=self._tenant)

    async def page_bundles(self, page: PageRequest) -> Page[RegisteredBundle]:
        """One page of all names a document may include, built-in ones among them, in alphabetical order."""
        registered = await self._db.read(store.list_bundles, within=self._tenant)
        every = sorted([*map(_builtin, BUILTIN_BUNDLES), *registered], key=lambda bundle: bundle.name)
        after = _name_after(page)
        rest = every[page.offset :] if after is None else [bundle for bundle in every if bundle.name > after]
        shown = rest[: page.limit]
        more = len(rest) > page.limit
        return Page(shown, len(every), make_cursor(shown[-1].name, "") if more else None)

    async def refresh_bundle(self, name: str) -> Refreshed | None:
        """Look again where a name leads, a branch included; sessions opened from now on find the same.

        What cannot be read is `BundleUnresolved`.
        """
        bundle = await self.get_bundle(name)
        if bundle is None:
            return None
        names = await self._db.read(store.names_of, within=self._tenant)
        with Hold() as hold:
            found = await in_waiting_thread(_look, bundle, self._sources(names, hold))
            if self._on_refresh is not None:
                # Before the hold ends, and only now: what is prepared serves on while a source cannot be had.
                self._on_refresh(self._tenant)
            return found

    async def delete_bundle(self, name: str) -> bool:
        """Forget a name, also one that configs include. A built-in one is `BuiltInBundle`."""
        if name in BUILTIN_BUNDLES:
            raise BuiltInBundle(name)
        if not is_storable(name):
            return False
        return await self._db.write(store.delete_bundle, name, within=self._tenant)


def _suggested(uri: str) -> str:
    name = name_of(uri)
    try:
        return BundleRegisterRequest(name=name).name or name
    except ValueError:
        raise InvalidFields.of("name", "is needed: the last part of the URI is none that an include can say") from None


def _builtin(name: str) -> RegisteredBundle:
    return RegisteredBundle(name=name, builtin=True)


def _look(bundle: RegisteredBundle, sources: Sources) -> Refreshed:
    """Read the bundle and what it includes. Blocks."""
    fetched = None if sources.fetch is None else FetchOnce(sources.fetch)
    loaded: Loaded = load_source(bundle.name, replace(sources, fetch=fetched, pins={}))
    if not loaded.files:
        raise BundleUnresolved(loaded.problems)
    met = () if fetched is None else fetched.met
    commit = next((found.commit for found in met if found.uri == bundle.uri), None)
    return Refreshed(bundle, loaded.files[0].sha256, commit, loaded.problems)


def _name_after(page: PageRequest) -> str | None:
    after = page.after()
    if after is None:
        return None
    name, rest = after
    if rest or not name:
        raise InvalidPage("cursor is not one that this list made")
    return name
