"""One preparation for everybody who asks for the same text."""

import asyncio
import hashlib
import json
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from amplifier_app_api.bundles import PreparedBundle, Sources, parse_document, prepare
from amplifier_app_api.bundles.dependencies import Announcer, Installer
from amplifier_app_api.bundles.sources import Hold
from amplifier_app_api.errors import TimedOut

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """What a prepared bundle depends on beside the files it was read from. `refresh` counts those of the tenant."""

    tenant: str
    refresh: int
    text_sha256: str
    names_sha256: str
    pins_sha256: str
    installs: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A prepared bundle, and when its branches were looked up, on the clock of `time.monotonic`."""

    prepared: PreparedBundle
    looked_up: float


class PrepareTimeout(TimedOut):
    """Preparing the bundle took longer than `AMPLIFIER_PREPARE_TIMEOUT`."""

    code = "prepare_timeout"
    title = "Preparing the config took too long"


class PreparedBundleCache:
    """Prepared bundles by tenant, text and the names that tenant registered; the least recently used goes first.

    An entry is used only while the local files it was read from look as they did, and branches of remote sources
    are looked up again when `refresh` has passed; when that fails, what is here serves on. A preparation is shared by
    all who wait for it, goes on when one of them leaves, and is not kept when it fails. Fetched sources stay on disk
    as long as a bundle that was prepared from them is in use.
    """

    def __init__(
        self,
        sources: Callable[[Mapping[str, str], Hold], Sources],
        *,
        size: int,
        limit: timedelta,
        refresh: timedelta = timedelta(seconds=60),
        installer: Installer | None = None,
    ) -> None:
        self._sources = sources
        self._size = size
        self._limit = limit
        self._refresh = refresh.total_seconds()
        self._installer = installer
        self._prepared: OrderedDict[Key, Entry] = OrderedDict()
        self._preparing: dict[Key, asyncio.Task[PreparedBundle]] = {}
        self._refreshes: dict[str, int] = {}

    async def get(
        self,
        text: str,
        *,
        tenant: str,
        names: Mapping[str, str],
        pins: Mapping[str, str] | None = None,
        installs: bool = True,
    ) -> PreparedBundle:
        """The prepared bundle of a text, whose includes may say `names`. Its problems are the caller's to judge.

        `pins` says what remote sources were before: exactly that is prepared again. Without `installs` nothing that
        modules depend on is installed; that it would be is a warning.
        """
        pins = pins or {}
        installs = installs or self._installer is None
        digests = (_sha256(text), _digest(names), _digest(pins))
        key = Key(tenant, self._refreshes.get(tenant, 0), *digests, installs)
        known = self._prepared.get(key)
        if known is not None and known.prepared.is_current():
            self._prepared.move_to_end(key)
            if not self._is_old(known, pins):
                return known.prepared
        else:
            known = None
        task = self._preparing.get(key)
        if task is None:
            work = self._prepare(key, text, names, pins, known)
            task = self._preparing[key] = asyncio.create_task(work, name="prepare a bundle")
        return await asyncio.shield(task)

    def _is_old(self, entry: Entry, pins: Mapping[str, str]) -> bool:
        moving = any(source.resolved not in (source.uri, pins.get(source.uri)) for source in entry.prepared.sources)
        return moving and time.monotonic() - entry.looked_up >= self._refresh

    def forget(self, tenant: str) -> None:
        """Prepare a tenant's bundles anew from now on; whoever waits already still gets what is being prepared."""
        self._refreshes[tenant] = self._refreshes.get(tenant, 0) + 1
        for key in [key for key in self._prepared if key.tenant == tenant]:
            del self._prepared[key]

    async def _prepare(
        self, key: Key, text: str, names: Mapping[str, str], pins: Mapping[str, str], known: Entry | None
    ) -> PreparedBundle:
        try:
            prepared = await self._prepared_now(text, names, pins, self._installer if key.installs else Announcer())
            if known is not None:
                prepared = _better(known.prepared, prepared)
        except PrepareTimeout:
            if known is None:
                raise
            logger.warning("branches of remote sources could not be looked up in time")
            prepared = known.prepared
        finally:
            del self._preparing[key]
        if key.refresh == self._refreshes.get(key.tenant, 0):
            # From now on: a look-up that took its whole time must not make the next one due at once.
            self._prepared[key] = Entry(prepared, time.monotonic())
            self._prepared.move_to_end(key)
        while len(self._prepared) > self._size:
            self._prepared.popitem(last=False)
        return prepared

    async def _prepared_now(
        self, text: str, names: Mapping[str, str], pins: Mapping[str, str], installer: Installer | None
    ) -> PreparedBundle:
        limit = self._limit.total_seconds()
        hold = Hold()
        sources = replace(self._sources(names, hold), pins=pins)
        try:
            async with asyncio.timeout(limit):
                document = await asyncio.to_thread(parse_document, text, sources.limits)
                prepared = await prepare(document, sources=sources, installer=installer)
        except TimeoutError:
            hold.close()
            raise PrepareTimeout(f"preparing the bundle took longer than {limit:g} seconds") from None
        except BaseException:
            hold.close()
            raise
        weakref.finalize(prepared, hold.close)
        return prepared

    async def close(self) -> None:
        """Wait for what is being prepared."""
        if self._preparing:
            await asyncio.gather(*self._preparing.values(), return_exceptions=True)


def _better(known: PreparedBundle, now: PreparedBundle) -> PreparedBundle:
    """What to serve after branches were looked up: what there was if nothing is new, or sources could not be fetched.

    What a source holds now is told, also when it is wrong.
    """
    lost = [problem.detail for problem in now.problems if problem.code == "module_fetch_failed"]
    if lost:
        logger.warning("branches of remote sources could not be looked up", extra={"problems": lost})
    return known if lost or now.fingerprint == known.fingerprint else now


def _digest(pairs: Mapping[str, str]) -> str:
    return _sha256(json.dumps(pairs, sort_keys=True))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
