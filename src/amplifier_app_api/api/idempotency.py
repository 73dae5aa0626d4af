"""`Idempotency-Key`: a request that creates something is carried out once, however often it is sent."""

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, TypeVar

import orjson
from fastapi import Depends, Header, Request

from amplifier_app_api.api.deps import Caller, Running
from amplifier_app_api.api.middleware import REPLAYED
from amplifier_app_api.core.idempotency import IdempotencyKeys, KeptAnswer, KeyInProgress, KeyReused, RequestKey

__all__ = ["KEYED", "Once", "RequestOnce"]

T = TypeVar("T")

KEYED = (KeyReused, KeyInProgress)
"""What a route that takes a key may refuse besides."""


@dataclass(frozen=True, slots=True)
class RequestOnce:
    """The key of this request, if it has one. `replayed` is set in the scope, for whoever writes the answer."""

    key: RequestKey | None
    keys: IdempotencyKeys
    request: Request

    async def __call__(
        self, make: Callable[[RequestKey | None], Awaitable[T]], replay: Callable[[KeptAnswer], Awaitable[T]]
    ) -> T:
        """What `make` gives, which keeps the key; or `replay`, when the request was carried out before."""

        async def made() -> T:
            return await make(self.key)

        answer, replayed = await self.keys.once(self.key, make=made, replay=replay)
        if replayed:
            self.request.scope.setdefault("state", {})[REPLAYED] = True
        return answer


async def asked_once(
    request: Request,
    services: Running,
    principal: Caller,
    idempotency_key: Annotated[
        str | None,
        Header(
            pattern=r"^[\x21-\x7e]{1,255}$",
            description="1 to 255 visible ASCII characters; a request sent again with the same key is not carried out "
            "again but answered as the first one was, with `Idempotency-Replayed: true`",
        ),
    ] = None,
) -> RequestOnce:
    """The request's key, for this caller and this path."""
    key = None
    if idempotency_key is not None:
        route = f"{request.method} {request.url.path}"
        key = RequestKey(principal.tenant_id, route, idempotency_key, await _hash_of(request))
    return RequestOnce(key, services.keys, request)


Once = Annotated[RequestOnce, Depends(asked_once)]


async def _hash_of(request: Request) -> str:
    """Stands for what is asked: the query and the body; of JSON neither spaces nor the order of members matter."""
    body = await request.body()
    # What is not JSON, or deeper than is written, is taken as it is: what is wrong with it others say.
    with suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):
        body = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(request.url.query.encode() + b"\n" + body).hexdigest()
