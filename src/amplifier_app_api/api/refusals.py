"""Which refusals belong to which kind of route, for the OpenAPI document."""

from amplifier_app_api.api.errors import (
    Forbidden,
    Internal,
    InvalidJson,
    InvalidRequest,
    TooLarge,
    UnsupportedMediaType,
    documented,
)
from amplifier_app_api.bundles import (
    DocumentTooComplex,
    InvalidDocument,
    InvalidYaml,
    MissingVariables,
    NotRunnable,
    RelativeReference,
)
from amplifier_app_api.errors import AppError, BadGateway, TimedOut, TooMany, Unavailable
from amplifier_app_api.runtime.opening import ModuleFailed
from amplifier_app_api.runtime.pool import ShuttingDown, TooManyTurns
from amplifier_app_api.runtime.prepared_cache import PrepareTimeout
from amplifier_app_api.storage.engine import DatabaseUnavailable

__all__ = ["ALWAYS", "CHANGING", "OPENING", "READING", "STORING", "TURN", "documented"]

Refusals = tuple[type[AppError], ...]

# Whatever the route: bodies are read, bounded and typed before it is found.
ALWAYS: Refusals = (Forbidden, TooLarge, UnsupportedMediaType, Internal)
READING: Refusals = (*ALWAYS, InvalidRequest, DatabaseUnavailable)
CHANGING: Refusals = (InvalidJson, *READING)

# The bar that every stored text passes.
STORING: Refusals = (InvalidYaml, InvalidDocument, DocumentTooComplex, RelativeReference)

# What opening a session may meet, and what a provider may answer to a turn.
OPENING: Refusals = (NotRunnable, MissingVariables, TooManyTurns, ModuleFailed, ShuttingDown, PrepareTimeout)
TURN: Refusals = (TooMany, BadGateway, Unavailable, TimedOut)
