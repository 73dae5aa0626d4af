"""What can go wrong, as types.

Every refusal the service makes is an `AppError`: its class says the HTTP status, the stable `code`
and the title; the instance says what happened this time. Concrete errors are declared beside the code
that raises them, in one of the families below. `api/errors.py` alone turns them into problem documents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorItem:
    """One of several things wrong with an input.

    `pointer` is a JSON pointer (RFC 6901) into the document or the request body, `line` and `column`
    count from 1 in the text the caller sent.
    """

    code: str
    detail: str
    pointer: str | None = None
    line: int | None = None
    column: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The item as it stands in a problem document."""
        return {
            "code": self.code,
            "pointer": self.pointer,
            "detail": self.detail,
            "line": self.line,
            "column": self.column,
        }


class AppError(Exception):
    """Something the caller should hear about.

    `detail` is one sentence for people. `items` lists every place that is wrong. `facts` are further
    members of the problem document (for example `turn_id` of `session_busy`). `headers` go with the answer.
    """

    status: int = 500
    code: str = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        items: Sequence[ErrorItem] = (),
        facts: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.items = tuple(items)
        self.facts: dict[str, Any] = dict(facts or {})
        self.headers: dict[str, str] = dict(headers or {})


class Invalid(AppError, ValueError):
    """The document cannot be taken as it is."""

    status = 400
    code = "invalid_document"
    title = "The document is not valid"


class NotFound(AppError, LookupError):
    """There is no such thing, or it belongs to somebody else."""

    status = 404
    code = "not_found"
    title = "Not found"


class Conflict(AppError):
    """The request is fine, the state of the thing is not."""

    status = 409
    code = "conflict"
    title = "Conflict"


class PreconditionFailed(AppError):
    """The thing changed since the caller read it (`If-Match`)."""

    status = 412
    code = "precondition_failed"
    title = "The resource has changed"


class Unprocessable(AppError):
    """The request is well formed and cannot be carried out as it stands."""

    status = 422
    code = "invalid_request"
    title = "The request cannot be processed"


class TooMany(AppError):
    """A limit of this server or of a provider is reached; later it may work."""

    status = 429
    code = "rate_limited"
    title = "Too many requests"


class BadGateway(AppError):
    """Something this server depends on failed: a provider, a module, a source."""

    status = 502
    code = "provider_error"
    title = "A dependency failed"


class Unavailable(AppError):
    """This server, or what it depends on, cannot answer now; later it may."""

    status = 503
    code = "provider_unavailable"
    title = "Unavailable"


class TimedOut(AppError):
    """Something took longer than its limit."""

    status = 504
    code = "provider_timeout"
    title = "Timed out"
