"""Shapes: data in and out, no I/O."""

from amplifier_app_api.models.config import (
    BundleRequest,
    Config,
    ConfigCreateRequest,
    ConfigListResponse,
    ConfigMetadata,
    ConfigPatchRequest,
    ConfigResponse,
    ConfigRevision,
    ConfigUpdateRequest,
    ModuleRequest,
)
from amplifier_app_api.models.page import Page, PageRequest
from amplifier_app_api.models.principal import Principal
from amplifier_app_api.models.session import (
    MessageRequest,
    MessageResponse,
    Session,
    SessionCreateRequest,
    SessionListResponse,
    SessionResponse,
    SessionStatus,
)
from amplifier_app_api.models.turn import Message, StopReason, TokenUsage, Turn, TurnStatus

__all__ = [
    "BundleRequest",
    "Config",
    "ConfigCreateRequest",
    "ConfigListResponse",
    "ConfigMetadata",
    "ConfigPatchRequest",
    "ConfigResponse",
    "ConfigRevision",
    "ConfigUpdateRequest",
    "Message",
    "MessageRequest",
    "MessageResponse",
    "ModuleRequest",
    "Page",
    "PageRequest",
    "Principal",
    "Session",
    "SessionCreateRequest",
    "SessionListResponse",
    "SessionResponse",
    "SessionStatus",
    "StopReason",
    "TokenUsage",
    "Turn",
    "TurnStatus",
]
