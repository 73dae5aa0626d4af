"""The `config` of one `generate_content`, made of a kernel request and the provider's options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from amplifier_app_api.modules.kernel import ChatRequest
from amplifier_app_api.modules.providers.gemini_models import is_older
from amplifier_app_api.modules.providers.gemini_options import GeminiOptions

_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}
_BUDGETS = {"minimal": 512, "low": 1_024, "medium": 8_192, "high": 24_576, "xhigh": 24_576, "max": 24_576}
_MODES = {"auto": "AUTO", "any": "ANY", "required": "ANY", "none": "NONE"}


def model_of(request: ChatRequest, options: GeminiOptions, overrides: Mapping[str, Any]) -> str:
    return str(overrides.get("model") or request.model or options.model).removeprefix("models/")


def config_of(
    request: ChatRequest, system: list[str], model: str, options: GeminiOptions, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """`overrides` are the keyword arguments of `complete()`; they win over the request, it over the options."""
    told = [*system]
    made: dict[str, Any] = {
        "automatic_function_calling": {"disable": True},  # tools are the loop's to run
        "http_options": {"timeout": round(1000 * (request.timeout or options.timeout))},
        **_structured(request, model, told),
        **_sampling(request, options, overrides),
    }
    if told:
        made["system_instruction"] = "\n\n".join(told)
    if request.tools:
        made["tools"] = [{"function_declarations": [_declaration(tool) for tool in request.tools]}]
        if request.tool_choice is not None:
            made["tool_config"] = {"function_calling_config": _choice(request.tool_choice)}
    if thinking := _thinking(request, model, options, overrides):
        made["thinking_config"] = thinking
    return made


def _declaration(tool: Any) -> dict[str, Any]:
    declaration = {"name": tool.name, "description": tool.description or ""}
    if tool.parameters.get("properties"):  # the API refuses an object of nothing
        declaration["parameters_json_schema"] = tool.parameters
    return declaration


def _choice(choice: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(choice, dict):
        choice = str(choice.get("name") or choice.get("type") or "auto")
    if choice in _MODES:
        return {"mode": _MODES[choice]}
    return {"mode": "ANY", "allowed_function_names": [choice]}


def _structured(request: ChatRequest, model: str, told: list[str]) -> dict[str, Any]:
    """JSON, by the API or, for a model that does not do so beside tools, by a word in `told`."""
    asked = request.response_format
    schema = getattr(asked, "json_schema", None)
    if schema is None and getattr(asked, "type", None) != "json":
        return {}
    schema = None if schema is None else schema.get("schema", schema)
    if request.tools and is_older(model):
        told.append("Your last answer is one JSON value and nothing else: no words around it, no code fence.")
        if schema is not None:
            told.append(f"It follows this JSON Schema: {json.dumps(schema)}")
        return {}
    made: dict[str, Any] = {"response_mime_type": "application/json"}
    return made if schema is None else made | {"response_json_schema": schema}


def _sampling(request: ChatRequest, options: GeminiOptions, overrides: Mapping[str, Any]) -> dict[str, Any]:
    temperatures = [overrides.get("temperature"), request.temperature, options.temperature]
    named = {
        "temperature": next((value for value in temperatures if value is not None), None),
        "top_p": request.top_p,
        "stop_sequences": request.stop or None,
        "max_output_tokens": overrides.get("max_tokens") or request.max_output_tokens or options.max_tokens,
    }
    return {name: value for name, value in named.items() if value is not None}


def _thinking(request: ChatRequest, model: str, options: GeminiOptions, overrides: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if overrides.get("extended_thinking", options.thinking):
        made["include_thoughts"] = True
    budget = overrides.get("thinking_budget_tokens") or options.thinking_budget_tokens
    effort = str(overrides.get("reasoning_effort") or request.reasoning_effort or options.effort or "").lower()
    if budget is not None:
        made["thinking_budget"] = int(budget)
    elif effort in _LEVELS and is_older(model):
        made["thinking_budget"] = _BUDGETS[effort]
    elif effort in _LEVELS:
        made["thinking_level"] = _LEVELS[effort]
    return made
