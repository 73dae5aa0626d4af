"""The arguments of one call, for either of OpenAI's APIs, made of a kernel request and the provider's options.

Keyword arguments of `complete()` win over the request, the request over the options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from amplifier_app_api.modules.kernel import ChatRequest
from amplifier_app_api.modules.providers.openai_chat_messages import ChatMessages
from amplifier_app_api.modules.providers.openai_input import Param, ResponsesInput
from amplifier_app_api.modules.providers.openai_models import reasons
from amplifier_app_api.modules.providers.openai_options import CallOptions, Endpoint, first_given

SEALED_REASONING = "reasoning.encrypted_content"

_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_CHOICES = {"auto": "auto", "any": "required", "required": "required", "none": "none"}
_NAME = re.compile(r"[^a-zA-Z0-9_-]")


def responses_arguments(
    request: ChatRequest,
    talk: ResponsesInput,
    options: CallOptions,
    overrides: Mapping[str, Any],
    cache_key: str | None,
) -> Param:
    """For `responses.create`. `store` is false: the vendor keeps nothing, the conversation is ours."""
    model = request.model or options.model
    effort = _effort(request, options, overrides)
    thinks = reasons(options.known_as(model)) or (effort is not None and effort != "none")
    made: Param = {"model": model, "input": talk.items, "store": False}
    if talk.instructions:
        made["instructions"] = "\n\n".join(talk.instructions)
    if (most := _most_tokens(request, options, overrides)) is not None:
        made["max_output_tokens"] = most
    if thinks:
        made["include"] = [SEALED_REASONING]
        made["reasoning"] = _reasoning(effort, options)
    if request.tools:
        made["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.parameters,
                "strict": False,  # strict would refuse every schema with an optional property
            }
            for tool in request.tools
        ]
        if (name := _tool_choice(request.tool_choice)) is not None:
            made["tool_choice"] = name if isinstance(name, str) else {"type": "function", **name}
        if not options.parallel_tool_calls:
            made["parallel_tool_calls"] = False
    if (wanted := _format(request)) is not None:
        made["text"] = {"format": wanted}
    if not thinks or effort == "none":
        made |= _sampling(request, options, overrides)
    return made | _service(options, cache_key) | ({"truncation": options.truncation} if options.truncation else {})


def chat_arguments(
    request: ChatRequest,
    talk: ChatMessages,
    options: CallOptions,
    overrides: Mapping[str, Any],
    cache_key: str | None,
    endpoint: Endpoint,
) -> Param:
    """For `chat.completions.create`. What only OpenAI knows is sent to OpenAI's models alone."""
    model = request.model or options.model
    effort = _effort(request, options, overrides, endpoint.vendor)
    thinks = endpoint.vendor and reasons(options.known_as(model))
    made: Param = {"model": model, "messages": talk.messages}
    if (most := _most_tokens(request, options, overrides)) is not None:
        made["max_completion_tokens" if endpoint.vendor else "max_tokens"] = most
    if effort is not None:
        made["reasoning_effort"] = effort
    if request.tools:
        made["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters},
            }
            for tool in request.tools
        ]
        if (name := _tool_choice(request.tool_choice)) is not None:
            made["tool_choice"] = name if isinstance(name, str) else {"type": "function", "function": name}
        if not options.parallel_tool_calls:
            made["parallel_tool_calls"] = False
    if (wanted := _format(request)) is not None:
        schema = {name: value for name, value in wanted.items() if name != "type"}
        made["response_format"] = {"type": wanted["type"]} | ({"json_schema": schema} if schema else {})
    if not thinks or effort == "none":
        made |= _sampling(request, options, overrides)
        if request.stop:
            made["stop"] = request.stop
    if endpoint.official:
        made["store"] = False
    return made | (_service(options, cache_key) if endpoint.vendor else {})


def _most_tokens(request: ChatRequest, options: CallOptions, overrides: Mapping[str, Any]) -> int | None:
    most = overrides.get("max_tokens") or request.max_output_tokens or options.max_tokens
    return int(most) if most else None


def _effort(request: ChatRequest, options: CallOptions, overrides: Mapping[str, Any], known: bool = True) -> str | None:
    """How hard to think; with thinking asked for and nothing said about how hard, moderately.

    Where it is not known whether the server understands efforts, only what somebody said.
    """
    effort = overrides.get("reasoning_effort") or request.reasoning_effort or options.reasoning_effort
    if effort is None and known and overrides.get("extended_thinking"):
        effort = "medium"
    return str(effort) if effort in _EFFORTS else None


def _reasoning(effort: str | None, options: CallOptions) -> Param:
    named = {"effort": effort, "summary": options.reasoning_summary}
    return {name: value for name, value in named.items() if value is not None}


def _sampling(request: ChatRequest, options: CallOptions, overrides: Mapping[str, Any]) -> Param:
    temperature = first_given(overrides.get("temperature"), request.temperature, options.temperature)
    named = {"temperature": temperature, "top_p": request.top_p}
    return {name: value for name, value in named.items() if value is not None}


def _service(options: CallOptions, cache_key: str | None) -> Param:
    named = {
        "prompt_cache_key": options.prompt_cache_key or cache_key,
        "prompt_cache_retention": options.prompt_cache_retention,
        "safety_identifier": options.safety_identifier,
        "service_tier": options.service_tier,
    }
    return {name: value for name, value in named.items() if value is not None}


def _tool_choice(choice: str | Param | None) -> str | Param | None:
    """A mode, or the name of the one tool to call, however the asker's API writes it."""
    if choice is None:
        return None
    if isinstance(choice, str):
        return _CHOICES.get(choice) or {"name": choice}
    function = cast("Param", choice.get("function") or choice)
    if function.get("name"):
        return {"name": function["name"]}
    return _CHOICES.get(str(choice.get("type")))


def _format(request: ChatRequest) -> Param | None:
    """The answer's form as the Responses API writes it."""
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json":
        return {"type": "json_object"}
    given = wanted.json_schema
    wrapped = isinstance(given.get("schema"), dict)  # some askers give the schema with its name around it
    schema = cast("Param", given["schema"]) if wrapped else given
    name = str(given.get("name") if wrapped else schema.get("title") or "") or "answer"
    made: Param = {"type": "json_schema", "name": _NAME.sub("_", name)[:64], "schema": schema}
    strict = wanted.strict if wanted.strict is not None else given.get("strict") if wrapped else None
    return made if strict is None else made | {"strict": strict}
