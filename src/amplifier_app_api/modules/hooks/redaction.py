"""`hooks-redaction`: nothing secret in what is kept or shown.

Two halves. The first is the session's **redactor**, offered as the capability `session.redactor` from mounting to
closing. A host that keeps or shows texts asks for it once the session is mounted
(`coordinator.get_capability("session.redactor")`, None where there is no such hook) and uses it on every text before
it is stored or sent:

- `redact(text) -> str` for a whole text;
- `redact_value(value) -> value` for JSON: arguments, results, events, rows;
- `stream() -> RedactingStream` for a text that comes in pieces, one for each block of each request: `feed(piece)`
  gives what may be shown, which may be nothing, and `finish()` the rest when the block ends. Together that is what
  `redact` makes of the whole. At most `longest_tail` characters are held back;
- `kinds`, a tuple of what it masks.

It never raises and keeps no state between texts. Nothing of it depends on the process: what was masked before a
restart is masked the same after it.

The second half masks the kernel's own events for whoever listens to them after this hook: every event with texts that
anybody is known to tell, but for pieces of streams, which are the host's. Events in `skip_events` are left as they
are, because a loop acts on what hooks make of them: masked, the user's words, a tool's arguments or its result would
reach the model, or the tool, without what was masked. Should masking fail, no text of the event is handed on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from amplifier_app_api.modules.hooks.redaction_patterns import UnsafePattern, compile_pattern
from amplifier_app_api.modules.hooks.redaction_people import people
from amplifier_app_api.modules.hooks.redaction_secrets import Span, secrets
from amplifier_app_api.modules.hooks.redactor import FAILED, Finder, Redactor
from amplifier_app_api.modules.hooks.registrations import CONTINUE, KNOWN_EVENTS, Registrations
from amplifier_app_api.modules.kernel import PROMPT_SUBMIT, TOOL_POST, TOOL_PRE, HookResult
from amplifier_app_api.modules.options import Options

__amplifier_module_type__ = "hook"

MODULE_ID = "hooks-redaction"
CAPABILITY = "session.redactor"

MAX_CUSTOM = 32
MAX_CUSTOM_LENGTH = 1_024

RULES: Mapping[str, Finder] = {"secrets": secrets, "pii-basic": people}
DEFAULT_SKIPPED = (PROMPT_SUBMIT, TOOL_PRE, TOOL_POST)
KEPT_NAMES = ("session_id", "parent_id", "request_id", "tool_call_id", "parallel_group_id", "timestamp")

logger = logging.getLogger(__name__)


def make_redactor(config: Mapping[str, Any] | None) -> Redactor:
    """The redactor that the options describe; `ConfigurationError` when they cannot be followed."""
    options = Options(MODULE_ID, config)
    rules = options.texts("rules") if options.has("rules") else list(RULES)
    unknown = [rule for rule in rules if rule not in RULES]
    if unknown:
        raise options.problem("rules", f"names {unknown[0]!r}; there are: {', '.join(RULES)}")
    custom = _custom(options, (config or {}).get("custom"))
    return Redactor(
        finders=[RULES[rule] for rule in rules] + [finder for _, finder in custom],
        kinds=(*rules, *(name for name, _ in custom)),
        kept_texts=frozenset(options.texts("allow_texts")),
        kept_names=frozenset([*KEPT_NAMES, *options.texts("allowlist")]),
        masks_named_secrets="secrets" in rules,
    )


def _custom(options: Options, given: Any) -> list[tuple[str, Finder]]:
    if given is None:
        return []
    if not isinstance(given, Mapping) or len(cast("Mapping[Any, Any]", given)) > MAX_CUSTOM:
        raise options.problem("custom", f"must be a mapping of at most {MAX_CUSTOM} names to patterns")
    finders: list[tuple[str, Finder]] = []
    total = 0
    for name, pattern in cast("Mapping[Any, Any]", given).items():
        if not isinstance(name, str) or not name.replace("-", "").isalnum() or not name.isascii() or len(name) > 40:
            raise options.problem("custom", "must have names of letters, digits and hyphens")
        if not isinstance(pattern, str):
            raise options.problem("custom", f"must have a pattern for {name}")
        try:
            compiled, length = compile_pattern(pattern)
        except UnsafePattern as problem:
            raise options.problem("custom", f"has a pattern for {name} that {problem}") from None
        total += length
        finders.append((name, _finder(name, compiled.finditer)))
    if total > MAX_CUSTOM_LENGTH:
        raise options.problem("custom", f"matches up to {total:,} characters in all; at most {MAX_CUSTOM_LENGTH:,}")
    return finders


def _finder(kind: str, matches: Callable[[str], Iterator[Any]]) -> Finder:
    def find(text: str) -> Iterator[Span]:
        for match in matches(text):
            yield Span(match.start(), match.end(), kind, match.start())

    return find


def _blanked(value: Any) -> Any:
    """The value with no text left in it."""
    if isinstance(value, str):
        return FAILED
    if isinstance(value, dict):
        return {key: _blanked(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_blanked(item) for item in cast("list[Any]", value)]
    return value


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], None]:
    redactor = make_redactor(config)
    options = Options(MODULE_ID, config)
    skipped = options.texts("skip_events") if options.has("skip_events") else DEFAULT_SKIPPED
    handlers = Registrations(coordinator, MODULE_ID, options.integer("priority", 10))

    async def mask(event: str, data: dict[str, Any]) -> HookResult:
        try:
            masked = redactor.redact_value(data)
        except Exception:  # a hook that raises is passed over, and the text with it would go on unmasked
            logger.exception("an event could not be redacted", extra={"event": event})
            masked = _blanked(data)
        return CONTINUE if masked == data else HookResult(action="modify", data=masked)

    handlers.on_all([event for event in KNOWN_EVENTS if event not in skipped], mask)
    coordinator.register_capability(CAPABILITY, redactor)

    def close() -> None:
        handlers.close()
        coordinator.register_capability(CAPABILITY, None)

    return close
