"""How our routes read JSON."""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute


class JsonRequest(Request):
    """Reads its body as JSON strictly: UTF-8, no NaN, no halves of surrogate pairs."""

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """A route whose requests are `JsonRequest`s."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(JsonRequest(request.scope, request.receive))

        return handle


def json_router(*, prefix: str = "", tag: str) -> APIRouter:
    """A router whose routes read JSON strictly."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=JsonRoute)
