"""Requests that are carried out once, however often they are sent.

    made = await keys.once(key, make=create, replay=what_was_made)

`make` keeps the key in the transaction that makes what is asked for (`storage.idempotency.keep_key`); so after a
crash either both are there or neither. `replay` gives the answer of a request whose key is there already.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from amplifier_app_api.errors import Conflict, Unprocessable
from amplifier_app_api.storage.database import Database
from amplifier_app_api.storage.idempotency import KeptAnswer, KeyTaken, RequestKey, kept_answer

__all__ = ["IdempotencyKeys", "KeptAnswer", "KeyInProgress", "KeyReused", "RequestKey"]

T = TypeVar("T")


class KeyReused(Unprocessable):
    """The key was used for a request that asked for something else."""

    code = "key_reused"
    title = "The key belongs to another request"


class KeyInProgress(Conflict):
    """The first request with this key is being carried out; ask again."""

    code = "key_in_progress"
    title = "The request is being carried out"


class IdempotencyKeys:
    """The keys of a process: those that are rows, and those whose request is being carried out here."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._making: set[tuple[str, str, str]] = set()

    async def once(
        self,
        key: RequestKey | None,
        *,
        make: Callable[[], Awaitable[T]],
        replay: Callable[[KeptAnswer], Awaitable[T]],
    ) -> tuple[T, bool]:
        """What `make` gives, or `replay` when the request was carried out before; the flag says which.

        Without a key it is made. `KeyReused`: the key belongs to another request. `KeyInProgress`: that request has
        not been accepted yet.
        """
        if key is None:
            return await make(), False
        kept = await self._kept(key)
        if kept is not None:
            return await replay(kept), True
        identity = (key.tenant_id, key.route, key.key)
        if identity in self._making:
            raise KeyInProgress("the first request with this key is being carried out", headers={"Retry-After": "1"})
        self._making.add(identity)
        try:
            return await make(), False
        except KeyTaken:  # another process, or a caller before us that has left, was first
            kept = await self._kept(key)
        finally:
            self._making.discard(identity)
        if kept is None:  # it was made, and forgotten, in between
            return await make(), False
        return await replay(kept), True

    async def _kept(self, key: RequestKey) -> KeptAnswer | None:
        kept = await self._db.read(kept_answer, key)
        if kept is not None and kept.request_hash != key.request_hash:
            raise KeyReused("this Idempotency-Key was used for a request that asked for something else")
        return kept
