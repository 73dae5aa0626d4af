"""The arguments of one `messages.create`, made of a kernel request and the provider's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amplifier_app_api.modules.kernel import ChatRequest
from amplifier_app_api.modules.providers.anthropic_messages import Conversation, Param
from amplifier_app_api.modules.providers.anthropic_models import Manners, facts_of, manners_of
from amplifier_app_api.modules.providers.anthropic_options import AnthropicOptions

DEFAULT_THINKING_BUDGET = 10_000
LEAST_THINKING_BUDGET = 1_024
ROOM_TO_ANSWER = 4_096  # tokens left for the answer beside a thinking budget
ANY_JSON = "Answer with one JSON value and nothing else: no words around it, no code fence."

_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_CHOICES = {"auto": "auto", "any": "any", "required": "any", "none": "none"}
_FORCING = ("any", "tool")


def arguments_of(
    request: ChatRequest, talk: Conversation, options: AnthropicOptions, overrides: Mapping[str, Any]
) -> Param:
    """`overrides` are the keyword arguments of `complete()`; they win over the request, it over the options.

    What the model's API refuses is left out: sampling, a thinking budget, a forced tool.
    """
    model = str(overrides.get("model") or request.model or options.model)
    manners = manners_of(model)
    most = overrides.get("max_tokens") or request.max_output_tokens or options.max_tokens
    made: Param = {
        "model": model,
        "messages": talk.messages,
        "max_tokens": int(most or facts_of(model).max_output_tokens),
        "timeout": request.timeout or options.timeout,
    }
    if system := _system(request, talk):
        made["system"] = system
    if request.tools:
        made["tools"] = [
            {"name": tool.name, "description": tool.description or "", "input_schema": tool.parameters}
            for tool in request.tools
        ]
        if options.enable_prompt_caching:
            made["tools"][-1]["cache_control"] = {"type": "ephemeral"}
        if (choice := _tool_choice(request.tool_choice, manners)) is not None:
            made["tool_choice"] = choice
    if request.stop:
        made["stop_sequences"] = request.stop
    if options.beta_headers:
        made["extra_headers"] = {"anthropic-beta": ",".join(options.beta_headers)}
    if output := _output(request, options, overrides):
        made["output_config"] = output
    forced = made.get("tool_choice", {}).get("type") in _FORCING  # goes with no thinking
    if not forced and (manners.always or overrides.get("extended_thinking", options.thinking)):
        made |= _thinking(made["max_tokens"], overrides.get("thinking_budget_tokens"), options, manners)
    elif manners.sampling and (sampling := _sampling(request, options, overrides)) is not None:
        made["extra_body"] = sampling  # the SDK has no parameters for these any more, the API does
    return made


def _system(request: ChatRequest, talk: Conversation) -> list[Param]:
    if getattr(request.response_format, "type", None) != "json":
        return talk.system
    return [*talk.system, {"type": "text", "text": ANY_JSON}]  # the API knows no JSON without a schema


def _output(request: ChatRequest, options: AnthropicOptions, overrides: Mapping[str, Any]) -> Param:
    output: Param = {}
    effort = overrides.get("reasoning_effort") or request.reasoning_effort or options.effort
    if (known := _EFFORTS.get(str(effort))) is not None:
        output["effort"] = known
    schema = getattr(request.response_format, "json_schema", None)
    if schema is not None:
        output["format"] = {"type": "json_schema", "schema": schema.get("schema", schema)}
    return output


def _thinking(max_tokens: int, budget: Any, options: AnthropicOptions, manners: Manners) -> Param:
    budget = budget or options.thinking_budget_tokens or (None if manners.adaptive else DEFAULT_THINKING_BUDGET)
    if budget is None or not manners.budget:
        return {"thinking": {"type": "adaptive", "display": options.thinking_display}}
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


def _tool_choice(choice: str | Param | None, manners: Manners) -> Param | None:
    if isinstance(choice, str):
        choice = {"type": _CHOICES[choice]} if choice in _CHOICES else {"type": "tool", "name": choice}
    if choice is not None and choice.get("type") in _FORCING and not manners.forced:
        return None
    return choice
