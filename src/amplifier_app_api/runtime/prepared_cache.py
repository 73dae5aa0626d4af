"""One preparation for everybody who asks for the same text."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta

from amplifier_app_api.bundles import Document, PreparedBundle, Sources, parse_document, prepare
from amplifier_app_api.errors import TimedOut

Key = tuple[str, str]


class PrepareTimeout(TimedOut):
    """Preparing the bundle took longer than `AMPLIFIER_PREPARE_TIMEOUT`."""

    code = "prepare_timeout"
    title = "Preparing the config took too long"


class PreparedBundleCache:
    """Prepared bundles by tenant and text; the least recently used goes first.

    An entry is used only while the local files it was read from look as they did. A preparation is shared by all
    who wait for it, goes on when one of them leaves, and is not kept when it fails.
    """

    def __init__(self, sources: Callable[[], Sources], *, size: int, limit: timedelta) -> None:
        self._sources = sources
        self._size = size
        self._limit = limit
        self._prepared: OrderedDict[Key, PreparedBundle] = OrderedDict()
        self._preparing: dict[Key, asyncio.Task[PreparedBundle]] = {}

    async def get(self, text: str, *, tenant: str) -> PreparedBundle:
        """The prepared bundle of a text. Its problems are the caller's to judge."""
        key = (tenant, hashlib.sha256(text.encode()).hexdigest())
        known = self._prepared.get(key)
        if known is not None and known.is_current():
            self._prepared.move_to_end(key)
            return known
        task = self._preparing.get(key)
        if task is None:
            task = self._preparing[key] = asyncio.create_task(self._prepare(key, text), name="prepare a bundle")
        return await asyncio.shield(task)

    async def _prepare(self, key: Key, text: str) -> PreparedBundle:
        try:
            async with asyncio.timeout(self._limit.total_seconds()):
                prepared = await prepare(await asyncio.to_thread(self._parse, text), sources=self._sources())
        except TimeoutError:
            raise PrepareTimeout(
                f"preparing the bundle took longer than {self._limit.total_seconds():g} seconds"
            ) from None
        finally:
            del self._preparing[key]
        self._prepared[key] = prepared
        self._prepared.move_to_end(key)
        while len(self._prepared) > self._size:
            self._prepared.popitem(last=False)
        return prepared

    def _parse(self, text: str) -> Document:
        return parse_document(text, self._sources().limits)

    async def close(self) -> None:
        """Wait for what is being prepared."""
        if self._preparing:
            await asyncio.gather(*self._preparing.values(), return_exceptions=True)
