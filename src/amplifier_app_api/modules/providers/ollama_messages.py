"""A conversation, and one call, as Ollama's chat wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.modules.kernel import ChatRequest, Message
from amplifier_app_api.modules.providers.conversation import NO_RESULT, Step, repairs_of, steps_of, text_of
from amplifier_app_api.modules.providers.ollama_options import NAME, OllamaOptions

Param = dict[str, Any]

ELSEWHERE = "[A picture that is not here, at {}]"

_LEVELS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


@dataclass(slots=True)
class OllamaMessages:
    messages: list[Param] = field(default_factory=list[Param])
    repairs: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


def ollama_messages(messages: Sequence[Message]) -> OllamaMessages:
    made = OllamaMessages()
    turn_begins = max((at for at, message in enumerate(messages) if message.role == "user"), default=0)
    current = {id(message) for message in messages[turn_begins:]}
    for step in steps_of(messages):
        match step.kind:
            case "system" | "aside":
                if (text := text_of(step.message.content)).strip():
                    made.messages.append({"role": "system", "content": text})
            case "user":
                made.messages += _said("user", step.message.content)
            case "reply":
                made.messages += _reply(step, id(step.message) in current)
            case "results":
                for call in step.calls:
                    result = (step.results or {}).get(call.id)
                    content = NO_RESULT if result is None else result.content
                    made.messages += _said("tool", content, tool_name=call.name, tool_call_id=call.id)
                made.repairs += repairs_of(step)
    return made


def chat_body(
    request: ChatRequest, talk: OllamaMessages, options: OllamaOptions, overrides: Mapping[str, Any]
) -> Param:
    """`overrides` are the keyword arguments of `complete()`; they win over the request, it over the options."""
    body: Param = {
        "model": request.model or options.model,
        "messages": talk.messages,
        "stream": options.use_streaming,
        "options": _sampling(request, options, overrides),
    }
    if tools := _tools(request):
        body["tools"] = tools
    if (think := _think(request, options, overrides)) is not None:
        body["think"] = think
    if options.keep_alive is not None:
        body["keep_alive"] = options.keep_alive
    wanted = request.response_format
    if wanted is not None and wanted.type == "json_schema":
        schema = wanted.json_schema
        body["format"] = schema["schema"] if isinstance(schema.get("schema"), dict) else schema
    elif wanted is not None and wanted.type == "json":
        body["format"] = "json"
    return body


def _sampling(request: ChatRequest, options: OllamaOptions, overrides: Mapping[str, Any]) -> Param:
    temperatures = (overrides.get("temperature"), request.temperature, options.temperature)
    named: Param = {
        "num_ctx": options.num_ctx or None,
        "num_predict": int(overrides.get("max_tokens") or request.max_output_tokens or options.max_tokens),
        "temperature": next((value for value in temperatures if value is not None), None),
        "top_p": request.top_p,
        "stop": request.stop or None,
    }
    return {name: value for name, value in named.items() if value is not None}


def _think(request: ChatRequest, options: OllamaOptions, overrides: Mapping[str, Any]) -> bool | str | None:
    """A level, yes or no; None to leave it to the model."""
    effort = overrides.get("reasoning_effort") or request.reasoning_effort
    if effort == "none":
        return False
    if (level := _LEVELS.get(str(effort))) is not None:
        return level
    if overrides.get("extended_thinking"):
        return True
    return options.enable_thinking


def _tools(request: ChatRequest) -> list[Param]:
    """Ollama has no choice of tools: to have none called, or one alone, the others are not offered."""
    choice = request.tool_choice
    if choice == "none":
        return []
    if isinstance(choice, dict):
        named: Param = choice.get("function") or choice
        choice = named.get("name")
    one = choice if choice not in (None, "auto", "any", "required") else None
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters},
        }
        for tool in request.tools or ()
        if one is None or tool.name == one
    ]


def _reply(step: Step, current: bool) -> list[Param]:
    text = text_of(step.message.content)
    calls = [{"id": call.id, "function": {"name": call.name, "arguments": call.arguments}} for call in step.calls]
    if not text.strip() and not calls:
        return []
    made: Param = {"role": "assistant", "content": text}
    if current and (thought := _thoughts(step.message)):
        made["thinking"] = thought
    if calls:
        made["tool_calls"] = calls
    return [made]


def _thoughts(message: Message) -> str:
    if isinstance(message.content, str):
        return ""
    return "\n".join(
        block.thinking
        for block in message.content
        if block.type == "thinking" and block.thinking and getattr(block, "made_by", None) == NAME
    )


def _said(role: str, content: Any, **facts: Any) -> list[Param]:
    texts: list[str] = []
    pictures: list[str] = []
    blocks: list[Any] = [] if isinstance(content, str) else content
    for block in blocks:
        if block.type == "text":
            texts.append(block.text)
        elif block.type == "image" and block.source.get("data"):
            pictures.append(block.source["data"])
        elif block.type == "image":  # the server opens no address, and neither do we
            texts.append(ELSEWHERE.format(block.source.get("url")))
    text = content if isinstance(content, str) else "\n".join(texts)
    if role == "user" and not text.strip() and not pictures:
        return []
    return [{"role": role, "content": text, **facts} | ({"images": pictures} if pictures else {})]
