"""The arguments of one `messages.create`, made of a kernel request and the provider's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amplifier_app_api.modules.kernel import ChatRequest
from amplifier_app_api.modules.providers.anthropic_messages import Conversation, Param
from amplifier_app_api.modules.providers.anthropic_models import facts_of
from amplifier_app_api.modules.providers.anthropic_options import AnthropicOptions

DEFAULT_THINKING_BUDGET = 10_000
LEAST_THINKING_BUDGET = 1_024
ROOM_TO_ANSWER = 4_096  # tokens left for the answer beside a thinking budget

_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_CHOICES = {"auto": "auto", "any": "any", "required": "any", "none": "none"}


def arguments_of(
    request: ChatRequest, talk: Conversation, options: AnthropicOptions, overrides: Mapping[str, Any]
) -> Param:
    """`overrides` are the keyword arguments of `complete()`; they win over the request, it over the options."""
    model = request.model or options.model
    facts = facts_of(model)
    most = overrides.get("max_tokens") or request.max_output_tokens or options.max_tokens or facts.max_output_tokens
    made: Param = {"model": model, "messages": talk.messages, "max_tokens": int(most)}
    if talk.system:
        made["system"] = talk.system
    if request.tools:
        made["tools"] = [
            {"name": tool.name, "description": tool.description or "", "input_schema": tool.parameters}
            for tool in request.tools
        ]
        if (choice := _tool_choice(request.tool_choice)) is not None:
            made["tool_choice"] = choice
    if request.stop:
        made["stop_sequences"] = request.stop
    effort = overrides.get("reasoning_effort") or request.reasoning_effort or options.effort
    if (known := _EFFORTS.get(str(effort))) is not None:
        made["output_config"] = {"effort": known}
    if overrides.get("extended_thinking", options.thinking):
        made |= _thinking(made["max_tokens"], overrides.get("thinking_budget_tokens"), options, facts.adaptive_thinking)
    elif (sampling := _sampling(request, options, overrides)) is not None:
        made["extra_body"] = sampling  # the SDK has no parameters for these any more, the API does
    return made


def _thinking(max_tokens: int, budget: Any, options: AnthropicOptions, adaptive: bool) -> Param:
    budget = budget or options.thinking_budget_tokens or (None if adaptive else DEFAULT_THINKING_BUDGET)
    if budget is None:
        return {"thinking": {"type": "adaptive", "display": "summarized"}}
    budget = max(LEAST_THINKING_BUDGET, int(budget))
    return {
        "thinking": {"type": "enabled", "budget_tokens": budget},
        "max_tokens": max(max_tokens, budget + ROOM_TO_ANSWER),
    }


def _sampling(request: ChatRequest, options: AnthropicOptions, overrides: Mapping[str, Any]) -> Param | None:
    given = [overrides.get("temperature"), request.temperature, options.temperature]
    temperature = next((value for value in given if value is not None), None)
    named = {"temperature": temperature, "top_p": request.top_p}
    return {name: value for name, value in named.items() if value is not None} or None


def _tool_choice(choice: str | Param | None) -> Param | None:
    if choice is None or isinstance(choice, dict):
        return choice
    return {"type": _CHOICES[choice]} if choice in _CHOICES else {"type": "tool", "name": choice}
