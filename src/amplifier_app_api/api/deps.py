"""What routes ask for: the managers, scoped to the caller before a route sees them, and the parts of a request."""

from datetime import timedelta
from typing import Annotated, cast

from fastapi import Depends, Header, Path, Query, Request
from structlog.contextvars import bind_contextvars

from amplifier_app_api.core.approvals import ApprovalManager
from amplifier_app_api.core.config_manager import ConfigManager
from amplifier_app_api.core.session_copies import SessionCopies
from amplifier_app_api.core.session_manager import SessionManager, SessionNotFound
from amplifier_app_api.core.session_storage import SessionStorage
from amplifier_app_api.core.usage import UsageReports
from amplifier_app_api.models.fields import Text
from amplifier_app_api.models.page import DEFAULT_LIMIT, MAX_LIMIT, MAX_OFFSET, PageRequest
from amplifier_app_api.models.principal import LOCAL, Principal
from amplifier_app_api.services import Services


async def running_services(request: Request) -> Services:
    """What is alive in this process."""
    return cast("Services", request.app.state.services)


Running = Annotated[Services, Depends(running_services)]


async def caller() -> Principal:
    """Who is calling. Nobody is asked: authentication is off."""
    return LOCAL


Caller = Annotated[Principal, Depends(caller)]


async def scoped_configs(services: Running, principal: Caller) -> ConfigManager:
    """The Configs that the caller may see."""
    return services.configs.scoped(principal)


async def scoped_sessions(services: Running, principal: Caller) -> SessionManager:
    """The sessions that the caller may see."""
    return services.sessions.scoped(principal)


Configs = Annotated[ConfigManager, Depends(scoped_configs)]
Sessions = Annotated[SessionManager, Depends(scoped_sessions)]


async def scoped_copies(services: Running, principal: Caller) -> SessionCopies:
    """Forks, exports and imports of what the caller may see."""
    return services.copies.scoped(principal)


async def scoped_storage(services: Running, principal: Caller) -> SessionStorage:
    """What the caller's sessions take."""
    return services.storage.scoped(principal)


Copies = Annotated[SessionCopies, Depends(scoped_copies)]
Stored = Annotated[SessionStorage, Depends(scoped_storage)]


async def scoped_approvals(services: Running, principal: Caller) -> ApprovalManager:
    """The approvals that the caller may see and answer."""
    return services.approvals.scoped(principal)


async def scoped_usage(services: Running, principal: Caller) -> UsageReports:
    """What the caller's tenant has used."""
    return services.usage.scoped(principal)


Approvals = Annotated[ApprovalManager, Depends(scoped_approvals)]
Usage = Annotated[UsageReports, Depends(scoped_usage)]


async def stream_ping(services: Running) -> timedelta:
    """How much silence a stream may have."""
    return services.settings.stream_ping


StreamPing = Annotated[timedelta, Depends(stream_ping)]


async def named_session(session_id: Annotated[str, Path()]) -> str:
    """The session of the path, bound for the log. A text that no database can hold names none."""
    if "\0" in session_id:
        raise SessionNotFound(session_id)
    bind_contextvars(session_id=session_id)
    return session_id


ConfigId = Annotated[str, Path()]


SessionId = Annotated[str, Depends(named_session)]


async def asked_page(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many items at most")] = DEFAULT_LIMIT,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET, description="How many items to skip")] = 0,
    cursor: Annotated[
        Text | None, Query(max_length=1000, description="`next_cursor` of the page before; `offset` is then ignored")
    ] = None,
) -> PageRequest:
    """Which part of a list is asked for."""
    return PageRequest(limit=limit, offset=offset, cursor=cursor)


Paging = Annotated[PageRequest, Depends(asked_page)]

IfMatch = Annotated[
    str | None, Header(description="Only if the Config still has this `ETag`; otherwise 412", examples=['"3.5"'])
]
IfNoneMatch = Annotated[str | None, Header(description="304 while the Config still has this `ETag`")]
