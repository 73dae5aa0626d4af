"""The kernel's names that our modules use, in one place: amplifier-core ships without type information.

Event names are the kernel's constants where it has them. The `llm:stream_*` events,
`orchestrator:steering_injected` and `orchestrator:goal_progress` are conventions of modules and unknown to the kernel.

`whole_letters` is for texts from outside on their way to it: its JSON is strict.
"""

from __future__ import annotations

import importlib
from typing import Any

from amplifier_core.llm_errors import (  # pyright: ignore[reportMissingTypeStubs]
    AccessDeniedError,
    AuthenticationError,
    ConfigurationError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    LLMError,
    LLMTimeoutError,
    NetworkError,
    NotFoundError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitError,
    StreamError,
)
from amplifier_core.message_models import (  # pyright: ignore[reportMissingTypeStubs]
    ChatRequest,
    ChatResponse,
    Message,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallBlock,
    ToolSpec,
    Usage,
)
from amplifier_core.models import (  # pyright: ignore[reportMissingTypeStubs]
    ConfigField,
    ContextInjection,
    HookResult,
    ModelInfo,
    ProviderInfo,
    ToolResult,
)

_events: Any = importlib.import_module("amplifier_core.events")  # constants of the compiled kernel, without stubs

ARTIFACT_READ: str = _events.ARTIFACT_READ
ARTIFACT_WRITE: str = _events.ARTIFACT_WRITE
CANCEL_COMPLETED: str = _events.CANCEL_COMPLETED
CANCEL_REQUESTED: str = _events.CANCEL_REQUESTED
CONTENT_BLOCK_END: str = _events.CONTENT_BLOCK_END
CONTENT_BLOCK_START: str = _events.CONTENT_BLOCK_START
CONTEXT_COMPACTION: str = _events.CONTEXT_COMPACTION
EXECUTION_END: str = _events.EXECUTION_END
EXECUTION_START: str = _events.EXECUTION_START
LLM_REQUEST: str = _events.LLM_REQUEST
LLM_RESPONSE: str = _events.LLM_RESPONSE
ORCHESTRATOR_COMPLETE: str = _events.ORCHESTRATOR_COMPLETE
PROMPT_COMPLETE: str = _events.PROMPT_COMPLETE
PROMPT_SUBMIT: str = _events.PROMPT_SUBMIT
PROVIDER_ERROR: str = _events.PROVIDER_ERROR
PROVIDER_REQUEST: str = _events.PROVIDER_REQUEST
PROVIDER_RESPONSE: str = _events.PROVIDER_RESPONSE
PROVIDER_RETRY: str = _events.PROVIDER_RETRY
PROVIDER_TOOL_SEQUENCE_REPAIRED: str = _events.PROVIDER_TOOL_SEQUENCE_REPAIRED
TOOL_ERROR: str = _events.TOOL_ERROR
TOOL_POST: str = _events.TOOL_POST
TOOL_PRE: str = _events.TOOL_PRE

ORCHESTRATOR_GOAL_PROGRESS = "orchestrator:goal_progress"
ORCHESTRATOR_STEERING_INJECTED = "orchestrator:steering_injected"
STREAM_BLOCK_START = "llm:stream_block_start"
STREAM_BLOCK_DELTA = "llm:stream_block_delta"
STREAM_BLOCK_END = "llm:stream_block_end"
STREAM_ABORTED = "llm:stream_aborted"


def whole_letters(text: str) -> str:
    """`text` with halves of letters put together where they meet, and a mark where one stands alone.

    A server may cut a letter in two, a model write half of one, a file be named by bytes that are no text; neither the
    kernel nor any store takes that.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


__all__ = [
    "ARTIFACT_READ",
    "ARTIFACT_WRITE",
    "CANCEL_COMPLETED",
    "CANCEL_REQUESTED",
    "CONTENT_BLOCK_END",
    "CONTENT_BLOCK_START",
    "CONTEXT_COMPACTION",
    "EXECUTION_END",
    "EXECUTION_START",
    "LLM_REQUEST",
    "LLM_RESPONSE",
    "ORCHESTRATOR_COMPLETE",
    "ORCHESTRATOR_GOAL_PROGRESS",
    "ORCHESTRATOR_STEERING_INJECTED",
    "PROMPT_COMPLETE",
    "PROMPT_SUBMIT",
    "PROVIDER_ERROR",
    "PROVIDER_REQUEST",
    "PROVIDER_RESPONSE",
    "PROVIDER_RETRY",
    "PROVIDER_TOOL_SEQUENCE_REPAIRED",
    "STREAM_ABORTED",
    "STREAM_BLOCK_DELTA",
    "STREAM_BLOCK_END",
    "STREAM_BLOCK_START",
    "TOOL_ERROR",
    "TOOL_POST",
    "TOOL_PRE",
    "AccessDeniedError",
    "AuthenticationError",
    "ChatRequest",
    "ChatResponse",
    "ConfigField",
    "ConfigurationError",
    "ContentFilterError",
    "ContextInjection",
    "ContextLengthError",
    "HookResult",
    "InvalidRequestError",
    "LLMError",
    "LLMTimeoutError",
    "Message",
    "ModelInfo",
    "NetworkError",
    "NotFoundError",
    "ProviderInfo",
    "ProviderUnavailableError",
    "QuotaExceededError",
    "RateLimitError",
    "RedactedThinkingBlock",
    "StreamError",
    "TextBlock",
    "ThinkingBlock",
    "ToolCall",
    "ToolCallBlock",
    "ToolResult",
    "ToolSpec",
    "Usage",
    "whole_letters",
]
