"""Answers that belong to no stored noun."""

from pydantic import BaseModel


class Acknowledgement(BaseModel):
    """A sentence that says what was done."""

    message: str


class ProblemItem(BaseModel):
    """One of several things wrong with an input."""

    code: str
    pointer: str | None = None
    detail: str
    line: int | None = None
    column: int | None = None


class Problem(BaseModel):
    """A refusal: a problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[ProblemItem]


class ServiceInfo(BaseModel):
    """What answers here."""

    service: str
    version: str
    description: str
    docs: str
    health: str


class HealthResponse(BaseModel):
    """Whether the service works."""

    status: str
    version: str
    uptime: str
    uptime_seconds: float
    database_connected: bool


class ReadyResponse(BaseModel):
    """Whether the service takes requests."""

    ready: bool


class VersionResponse(BaseModel):
    """What runs here."""

    service_version: str
    amplifier_core_version: str | None
    amplifier_foundation_version: str | None
