"""One table for both model doubles: what a message with directives has to lead to.

`fake_llm.py` is asked through Anthropic's and Google's SDKs, `provider-scripted` directly.
"""

from dataclasses import dataclass, field
from typing import Any

Call = tuple[str, dict[str, Any]]
Row = dict[str, Any]

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "days", "unit"],
}


@dataclass(frozen=True)
class Case:
    name: str
    prompt: str
    text: str = ""
    calls: list[Call] = field(default_factory=list)
    thinking: str = ""
    finish_reason: str = "end_turn"
    usage: dict[str, int] = field(default_factory=dict)  # only what the case says
    deltas: list[str] | None = None  # the text block's, where the case is about them
    after: list[Row] = field(default_factory=list)  # rows behind the prompt
    error: str | None = None  # the kernel's error class
    status: int | None = None
    aborted: int = 0  # deltas that were shown and taken back, per attempt
    retries: int = 0


def asked(call_id: str, name: str, arguments: dict[str, Any]) -> Row:
    return {
        "role": "assistant",
        "content": [{"type": "tool_call", "id": call_id, "name": name, "input": arguments}],
        "tool_calls": [{"id": call_id, "tool": name, "arguments": arguments}],
    }


def answered(call_id: str, text: str) -> Row:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


ONE_ROUND = [asked("c1", "weather", {"city": "Rome"}), answered("c1", "sunny")]
REMINDED = [*ONE_ROUND, {"role": "user", "content": "<system-reminder>\n[[text: no]]\n</system-reminder>"}]

CASES = [
    Case("echo", "[[echo]] good morning", text="echo: good morning", deltas=["echo:", " good", " morning"]),
    Case("a text", "[[text: Hello there]] ignored", text="Hello there"),
    Case("the text of the last text directive", "[[text: a]][[text: b]]", text="b"),
    Case("a json text", '[[json: {"list": [[1], [2]]}]]', text='{"list": [[1], [2]]}'),
    Case("a long answer", "[[long: tokens=5]]", text="w0 w1 w2 w3 w4", usage={"output_tokens": 5}),
    Case("a slow answer", "[[slow: tokens=3 delay_ms=1]]", text="w0 w1 w2", deltas=["w0", " w1", " w2"]),
    Case("deltas of some letters", "[[text: abcdefg]][[chunk: chars=3]]", text="abcdefg", deltas=["abc", "def", "g"]),
    Case("a wait and a pace", "[[text: a b]][[delay: ms=1]][[pace: ms=1]]", text="a b", deltas=["a", " b"]),
    Case("a thought", "[[think: let me see]][[text: yes]]", text="yes", thinking="let me see"),
    Case(
        "a tool call",
        '[[tool: weather {"city": "Rome [[x]]"}]]',
        calls=[("weather", {"city": "Rome [[x]]"})],
        finish_reason="tool_use",
    ),
    Case(
        "a tool call with words in front",
        '[[say: One moment]][[tool: weather {"city": "Rome"}]]',
        text="One moment",
        calls=[("weather", {"city": "Rome"})],
        finish_reason="tool_use",
    ),
    Case(
        "several tool calls at once",
        '[[tools: weather {"city": "Rome"} | weather {"city": "Oslo"}]]',
        calls=[("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"})],
        finish_reason="tool_use",
    ),
    Case(
        "arguments made of the schema",
        "[[tool: weather]]",
        calls=[("weather", {"city": "sample", "days": 1, "unit": "C"})],
        finish_reason="tool_use",
    ),
    Case(
        "the answer after the last round",
        '[[tool: weather {"city": "Rome"}]][[then: Sunny it is]]',
        after=ONE_ROUND,
        text="Sunny it is",
    ),
    Case("a preview of the results", '[[tool: weather {"city": "Rome"}]]', after=ONE_ROUND, text="Tool results: sunny"),
    Case(
        "the second round",
        '[[tool: weather {"city": "Rome"}]][[tool: weather {"city": "Oslo"}]]',
        after=ONE_ROUND,
        calls=[("weather", {"city": "Oslo"})],
        finish_reason="tool_use",
    ),
    Case(
        "a reminder, which is no message of the user's",
        '[[tool: weather {"city": "Rome"}]][[then: Done]]',
        after=REMINDED,
        text="Done",
    ),
    Case(
        "usage",
        "[[text: hi]][[usage: input=10 output=20 cache_read=300 cache_write=40]]",
        text="hi",
        usage={
            "input_tokens": 350,
            "output_tokens": 20,
            "total_tokens": 370,
            "cache_read_tokens": 300,
            "cache_write_tokens": 40,
        },
    ),
    Case("a stop reason", "[[text: half an ans]][[stop: max_tokens]]", text="half an ans", finish_reason="max_tokens"),
    Case("a bad request", "[[error: status=400 message=nonsense]]", error="InvalidRequestError", status=400),
    Case(
        "a conversation that is too long",
        '[[error: status=400 message="prompt is too long: 9 tokens"]]',
        error="ContextLengthError",
        status=400,
    ),
    Case("a wrong key", "[[error: status=401]]", error="AuthenticationError", status=401),
    Case("no permission", "[[error: status=403]]", error="AccessDeniedError", status=403),
    Case("an unknown model", "[[error: status=404]]", error="NotFoundError", status=404),
    Case("a rate limit", "[[error: status=429 retry_after=0]]", error="RateLimitError", status=429, retries=2),
    Case("an outage", "[[error: status=503]]", error="ProviderUnavailableError", status=503, retries=2),
    Case("an overload", "[[error: status=529]]", error="ProviderUnavailableError", status=529, retries=2),
    Case("an overload that passes", "[[error: status=529 times=2]][[text: back]]", text="back", retries=2),
    Case(
        "an error in the middle of the answer",
        "[[text: a b c d]][[midstream: after=2 type=invalid_request_error]]",
        error="InvalidRequestError",
        status=400,
        aborted=2,
    ),
]
