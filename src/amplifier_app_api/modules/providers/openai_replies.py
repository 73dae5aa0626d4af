"""What comes back from the Responses API: its events as ours, and the reply they add up to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from amplifier_app_api.modules.kernel import (
    ChatResponse,
    ContentFilterError,
    StreamError,
    TextBlock,
    ToolCall,
    ToolCallBlock,
    Usage,
)
from amplifier_app_api.modules.providers.call_arguments import arguments_of
from amplifier_app_api.modules.providers.failures import failure, status_of, without_key
from amplifier_app_api.modules.providers.openai_input import reasoning_block
from amplifier_app_api.modules.providers.openai_models import cost_of
from amplifier_app_api.modules.providers.openai_options import Endpoint
from amplifier_app_api.modules.providers.stop_words import StopWords
from amplifier_app_api.modules.providers.wire import AttemptStream

_STREAM_TYPES = {"message": "text", "reasoning": "thinking", "function_call": "tool_use"}
_POLICIES = ("_policy", "_policy_violation")  # how codes end that tell of a content the vendor will not have
_CUT_OFF = {"length", "content_filter"}  # the last item may be without its end
_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}


@dataclass(slots=True)
class _Item:
    index: int  # ours: the API has kinds of items that we do not know and leave out
    type: str
    pieces: list[str] = field(default_factory=list[str])
    parts: int = 0  # of a summary
    open: bool = True
    done: Any = None  # the item as the API gives it in the end


class ResponsesReply:
    """One attempt's reply. Fed by events as they arrive, or by a whole response."""

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        stream: AttemptStream,
        *,
        known_as: str | None = None,
        stop: list[str] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._model = model
        self._known_as = known_as or model  # in the table of prices
        self._stream = stream
        self._stop = StopWords(stop or ())
        self._items: dict[int, _Item] = {}
        self._final: Any = None
        self._handlers: dict[str, Callable[[Any], Awaitable[None]]] = {
            "response.output_text.delta": self._text,
            "response.refusal.delta": self._refusal,
            "response.reasoning_summary_text.delta": self._summary,
            "response.reasoning_text.delta": self._thought,
            "response.output_item.added": self._added,
            "response.output_item.done": self._done,
            "response.completed": self._finished,
            "response.incomplete": self._finished,
            "response.failed": self._failed,
            "error": self._error,
        }
        self._refused = False

    async def feed(self, event: Any) -> None:
        handler = self._handlers.get(event.type)
        if handler is not None:
            await handler(event)

    async def take(self, response: Any) -> None:
        """A response that did not come as a stream; shown item by item all the same."""
        if response.error is not None:
            self._raise(response.error, status=400)
        for index, item in enumerate(response.output):
            await self._open(index, item)
            await self._close(index, item)
        self._final = response

    async def _added(self, event: Any) -> None:
        await self._open(event.output_index, event.item)

    async def _open(self, index: int, item: Any) -> None:
        if item.type not in _STREAM_TYPES or self._stop.hit:
            return
        made = self._items[index] = _Item(len(self._items), item.type)
        name = item.name if item.type == "function_call" else None
        await self._stream.start(made.index, _STREAM_TYPES[item.type], name)

    async def _text(self, event: Any) -> None:
        if (item := self._items.get(event.output_index)) is not None:
            await self._say(item, self._stop.passing(event.delta))

    async def _refusal(self, event: Any) -> None:
        self._refused = True
        if (item := self._items.get(event.output_index)) is not None:
            await self._say(item, event.delta)

    async def _summary(self, event: Any) -> None:
        if (item := self._items.get(event.output_index)) is not None:
            gap = "\n\n" if event.summary_index > item.parts else ""
            item.parts = event.summary_index
            await self._say(item, gap + event.delta)

    async def _thought(self, event: Any) -> None:
        """The thoughts themselves: of models whose weights are open."""
        if (item := self._items.get(event.output_index)) is not None:
            await self._say(item, event.delta)

    async def _say(self, item: _Item, text: str) -> None:
        if text:
            item.pieces.append(text)
            await self._stream.delta(item.index, text)

    async def _done(self, event: Any) -> None:
        if event.output_index not in self._items:
            await self._open(event.output_index, event.item)
        await self._close(event.output_index, event.item)

    async def _close(self, index: int, done: Any) -> None:
        item = self._items.get(index)
        if item is None or not item.open:
            return
        item.done, item.open = done, False
        if item.type == "message":
            if not item.pieces and not self._stop.hit:
                await self._say(item, self._stop.passing(self._whole_text(done)))
            await self._say(item, self._stop.rest())
        elif item.type == "reasoning" and not item.pieces:
            await self._say(item, _whole_thought(done))
        await self._stream.end(item.index)

    def _whole_text(self, done: Any) -> str:
        refusals = [part.refusal for part in done.content if part.type == "refusal"]
        self._refused = self._refused or bool(refusals)
        return "".join([part.text for part in done.content if part.type == "output_text"] + refusals)

    async def _finished(self, event: Any) -> None:
        self._final = event.response
        for item in self._items.values():
            if item.open:
                item.open = False
                await self._stream.end(item.index)

    async def _failed(self, event: Any) -> None:
        self._raise(event.response.error, status=400)

    async def _error(self, event: Any) -> None:
        self._raise(event)

    def _raise(self, error: Any, status: int | None = None) -> None:
        """`status`: for a code without one of its own. A failed response fails again, a broken stream may not."""
        code = getattr(error, "code", None)
        if code is not None and code.endswith(_POLICIES):
            code = "content_policy_violation"
        said = getattr(error, "message", None) or "The API gave up without a reason"
        raise failure(
            status_of(code) or (status if code is not None else None),
            without_key(said, self._endpoint.api_key),
            error_code=code,
            provider=self._endpoint.provider,
            model=self._model,
        )

    def response(self) -> ChatResponse:
        """The whole reply; `StreamError` when it never came to its end."""
        if self._final is None:
            who = self._endpoint.provider
            raise StreamError("The answer ended before it was complete", provider=who, model=self._model)
        reason = self._reason()
        content = [made for item in self._items.values() if (made := self._content(item, reason)) is not None]
        if reason == "content_filter" and not content:
            who = self._endpoint.provider
            raise ContentFilterError("The answer was filtered", provider=who, model=self._model)
        calls = [ToolCall(id=b.id, name=b.name, arguments=b.input) for b in content if isinstance(b, ToolCallBlock)]
        return ChatResponse(
            content=content,
            tool_calls=calls or None,
            usage=self._usage(),
            finish_reason="tool_calls" if calls and reason == "stop" else reason,
        )

    def _reason(self) -> str:
        details = getattr(self._final, "incomplete_details", None)
        if details is not None and details.reason:
            return _REASONS.get(str(details.reason), str(details.reason))
        return "refusal" if self._refused else "stop"

    def _content(self, item: _Item, reason: str) -> Any:
        text = "".join(item.pieces)
        match item.type:
            case "message":
                phase = getattr(item.done, "phase", None)
                made = {"text": text} | ({"phase": phase} if phase else {})
                return TextBlock.model_validate(made) if text else None
            case "reasoning":
                sealed = getattr(item.done, "encrypted_content", None)
                who = self._endpoint.provider
                return (
                    reasoning_block(text, sealed or "", item.done.id, who) if item.done and (sealed or text) else None
                )
            case _:
                if item.done is None:
                    return None  # cut off
                who = self._endpoint.provider
                cut_off = reason in _CUT_OFF and item.index == len(self._items) - 1
                arguments = arguments_of(item.done.arguments, cut_off=cut_off, provider=who, model=self._model)
                if arguments is None:
                    return None
                return ToolCallBlock(id=item.done.call_id, name=item.done.name, input=arguments)

    def _usage(self) -> Usage:
        """`input_tokens` includes what was read from the cache, as the API counts."""
        counts = self._final.usage
        if counts is None:
            return Usage(input_tokens=0, output_tokens=0, total_tokens=0)
        into, out = counts.input_tokens_details, counts.output_tokens_details
        usage = Usage(
            input_tokens=counts.input_tokens or 0,
            output_tokens=counts.output_tokens or 0,
            total_tokens=counts.total_tokens or 0,
            reasoning_tokens=getattr(out, "reasoning_tokens", None),
            cache_read_tokens=getattr(into, "cached_tokens", None) or None,
            cache_write_tokens=getattr(into, "cache_write_tokens", None) or None,
        )
        if self._endpoint.vendor:
            usage.cost_usd = cost_of(self._known_as, usage)
        return usage


def _whole_thought(done: Any) -> str:
    parts: list[Any] = done.summary or getattr(done, "content", None) or []
    return "\n\n".join(part.text for part in parts)
