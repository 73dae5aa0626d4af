"""Refusals as problem documents (RFC 9457): the one place that turns what went wrong into JSON.

Routers catch nothing. An `AppError` says its status and code itself; FastAPI's and Starlette's own refusals are
translated; what is left is a bug, logged by `api/middleware.py` and told without its text. No answer repeats an
input value, which may be a secret.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from amplifier_app_api.errors import AppError, Conflict, ErrorItem, Invalid, NotFound, Unprocessable
from amplifier_app_api.models.fields import place_of

MEDIA_TYPE = "application/problem+json"
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class InvalidJson(AppError):
    """The body is not JSON: broken, not UTF-8, or with numbers and characters that JSON does not have."""

    status = 400
    code = "invalid_json"
    title = "The body is not JSON"


class InvalidRequest(Unprocessable):
    """The request is not of the shape that this route takes; `errors` names the places."""


class Forbidden(AppError):
    """The request comes from a web page, or to a name, that this server does not serve."""

    status = 403
    code = "forbidden"
    title = "Forbidden"


class NoSuchRoute(NotFound):
    """Nothing answers at this path."""


class MethodNotAllowed(AppError):
    """The path exists, the method does not; `Allow` names those that do."""

    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"


class TooLarge(AppError):
    """The body is larger than this server takes."""

    status = 413
    code = "too_large"
    title = "The body is too large"


class UnsupportedMediaType(AppError):
    """The body is of a type that is not JSON."""

    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class Internal(AppError):
    """A bug of this server. Its log tells more, under the request id."""


def install_error_handlers(app: FastAPI) -> None:
    """Make every refusal of `app` a problem document."""
    app.add_exception_handler(AppError, _answer_app_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)


async def _answer_app_error(request: Request, error: Exception) -> Response:
    return problem_response(cast("AppError", error), request.scope)


async def _answer_validation_error(request: Request, error: Exception) -> Response:
    return problem_response(_from_validation(cast("RequestValidationError", error)), request.scope)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    refusal = cast("HTTPException", error)
    headers = dict(refusal.headers or {})
    if "Allow" in headers:
        headers["Allow"] = ", ".join(_methods_at(request))
    return problem_response(_from_http(refusal.status_code, headers), request.scope)


def _methods_at(request: Request) -> list[str]:
    """What may be asked at this path: the framework only names the methods of the first route that has it."""
    asked = {"type": "http", "path": request.scope["path"], "root_path": request.scope.get("root_path", "")}
    return [
        method
        for method in METHODS
        if any(route.matches({**asked, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def problem_response(error: AppError, scope: Scope) -> Response:
    """The answer that tells of `error`; leaves its code in the scope for the access log."""
    scope.setdefault("state", {})["code"] = error.code
    content = problem(error, instance=scope.get("path", ""), request_id=scope["state"].get("request_id", ""))
    return Response(
        # `facts` are made by ourselves, with values that orjson may not know (an enum, a path).
        orjson.dumps(content, default=str),
        status_code=error.status,
        headers=error.headers,
        media_type=MEDIA_TYPE,
    )


def problem(error: AppError, *, instance: str, request_id: str) -> dict[str, Any]:
    """`error` as the members of a problem document."""
    members = {
        "type": f"/errors/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": instance,
        "code": error.code,
        "request_id": request_id,
        "errors": [item.as_json() for item in error.items],
    }
    return members | {name: fact for name, fact in error.facts.items() if name not in members}


def _from_validation(error: RequestValidationError) -> AppError:
    found = cast("Sequence[Mapping[str, Any]]", error.errors())
    if found and found[0]["type"] == "json_invalid":
        return _from_broken_json(error.body, found[0])
    items = [
        ErrorItem(
            code=_item_code(one["type"]),
            pointer=pointer(one["loc"]),
            detail=str(one["msg"]).removeprefix("Value error, "),
        )
        for one in found
    ]
    places = ", ".join(dict.fromkeys(item.pointer or "the body" for item in items))
    return InvalidRequest(f"The request is not valid: see {places}", items=items)


def _item_code(kind: str) -> str:
    """`missing` and `extra` are worth telling apart; pydantic's other kinds are its own business."""
    return kind if kind == "missing" else "invalid_value"


def pointer(location: Sequence[str | int]) -> str:
    """A JSON pointer: into the body, or `/query/limit`, `/path/…`, `/header/…` for parameters."""
    parts = location[1:] if location and location[0] == "body" else location
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in place_of(parts))


def _from_broken_json(body: Any, found: Mapping[str, Any]) -> InvalidJson:
    text = body if isinstance(body, str) else ""
    position = min(int(found["loc"][-1]), len(text))
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    item = ErrorItem(code=InvalidJson.code, detail="not JSON from here on", pointer="", line=line, column=column)
    return InvalidJson(f"The body is not valid JSON (line {line}, column {column})", items=[item])


def _from_http(status_code: int, headers: Mapping[str, str]) -> AppError:
    match status_code:
        case 404:
            return NoSuchRoute("Nothing answers at this path", headers=headers)
        case 405:
            return MethodNotAllowed(f"This path takes {headers.get('Allow', 'other methods')}", headers=headers)
        case 400:
            return InvalidJson("The body cannot be read", headers=headers)
        case status:
            return _named(status, headers)


def _named(status: int, headers: Mapping[str, str]) -> AppError:
    """A refusal of the framework that we have no class of our own for."""
    families: list[type[AppError]] = [Invalid, Forbidden, Conflict, TooLarge, UnsupportedMediaType, Unprocessable]
    family = next((family for family in families if family.status == status), Internal)
    return family(HTTPStatus(status).phrase, headers=headers)


def documented(*errors: type[AppError]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route that may refuse with `errors`."""
    by_status: dict[int, list[type[AppError]]] = {}
    for error in errors:
        by_status.setdefault(error.status, []).append(error)
    return {status: _documented_status(status, kinds) for status, kinds in sorted(by_status.items())}


def _documented_status(status: int, kinds: Sequence[type[AppError]]) -> dict[str, Any]:
    examples = {kind.code: {"summary": kind.title, "value": _example(kind)} for kind in kinds}
    description = "; ".join(dict.fromkeys(f"`{kind.code}`: {_first_line(kind)}" for kind in kinds))
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}}}


def _example(kind: type[AppError]) -> dict[str, Any]:
    """A problem document of this kind, made from the class alone: instances need facts of their own."""
    shown = AppError(_first_line(kind))
    named = {"type": f"/errors/{kind.code}", "title": kind.title, "status": kind.status, "code": kind.code}
    return problem(shown, instance="/…", request_id="0b9a2c8e") | named


def _first_line(kind: type[AppError]) -> str:
    return (kind.__doc__ or kind.title).strip().partition("\n")[0]
