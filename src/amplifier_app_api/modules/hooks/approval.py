"""`hooks-approval`: which tool calls run, which are asked about, and which do not run.

Rules decide (`approval_rules.py`); where none does, a tool that says of itself that it only reads runs and any other
is asked about. Who is asked: the provider that somebody registered through the capability
`approval.register_provider` (called with the kernel's `ApprovalRequest`, answers an `ApprovalResponse`), else the
kernel's approval system. Where there is neither, the answer is no.

The question is put while the kernel waits for this hook, and not by its answer `ask_user`: that answer loses what
earlier hooks made of the arguments, so that something else would run than was approved, and it does not tell whether
the answer is to be remembered. The hook runs late for the same reason: it judges the call as it will run.

Whatever goes wrong in here is a no. The kernel would let a call run whose hook raised.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from amplifier_core.approval import ApprovalTimeoutError  # pyright: ignore[reportMissingTypeStubs]

from amplifier_app_api.modules.hooks.approval_rules import (
    ACTIONS,
    PATH_ARGUMENTS,
    Action,
    Call,
    Rule,
    RuleProblem,
    Verdict,
    judge,
    read_rule,
    resolved,
)
from amplifier_app_api.modules.hooks.registrations import CONTINUE, Registrations, mapping, masked_text, masked_value
from amplifier_app_api.modules.kernel import TOOL_PRE, HookResult
from amplifier_app_api.modules.options import Options

__amplifier_module_type__ = "hook"

MODULE_ID = "hooks-approval"
REGISTER_CAPABILITY = "approval.register_provider"

_events: Any = importlib.import_module("amplifier_core.events")
APPROVAL_REQUIRED: str = _events.APPROVAL_REQUIRED
APPROVAL_GRANTED: str = _events.APPROVAL_GRANTED
APPROVAL_DENIED: str = _events.APPROVAL_DENIED

_interfaces: Any = importlib.import_module("amplifier_core.interfaces")

ONCE, ALWAYS, DENY = "Allow once", "Allow always", "Deny"
_GRANTED = ("allow", "allow once", "allow always")

MAX_REMEMBERED = 1_000
_SHOWN = 2_000
_ASKED_FOR = "require_approval_tools"
_ABOUT_FILES = frozenset((*PATH_ARGUMENTS, "content", "old_string", "new_string", "replace_all"))
"""Arguments that name files, or are what is written into them."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ApprovalOptions:
    """`timeout` in seconds; `unanswered` is what a question without an answer in time comes to."""

    rules: tuple[Rule, ...]
    otherwise: Action
    read_only: Action
    timeout: float
    unanswered: Literal["allow", "deny"]
    priority: int

    @classmethod
    def read(cls, config: Mapping[str, Any] | None) -> ApprovalOptions:
        options = Options(MODULE_ID, config)
        policy_only = options.flag("policy_driven_only", False)
        unanswered = options.text("default_action") or "deny"
        if unanswered not in ("allow", "deny"):
            raise options.problem("default_action", "must be allow or deny")
        return cls(
            rules=(*_rules(options, (config or {}).get("rules")), *_tools(options, (config or {}).get("tools"))),
            otherwise=_action(options, "otherwise", "allow" if policy_only else "ask"),
            read_only=_action(options, "read_only", "allow"),
            timeout=options.number("default_timeout", 3600, minimum=1),
            unanswered=unanswered,
            priority=options.integer("priority", 900),
        )


def _action(options: Options, name: str, default: Action) -> Action:
    value = options.text(name) or default
    if value not in ACTIONS:
        raise options.problem(name, f"must be one of: {', '.join(ACTIONS)}")
    return value


def _rules(options: Options, given: Any) -> list[Rule]:
    if given is None:
        return []
    if not isinstance(given, list):
        raise options.problem("rules", "must be a list")
    rules: list[Rule] = []
    for number, entry in enumerate(cast("list[Any]", given), start=1):
        try:
            rules.append(read_rule(entry))
        except RuleProblem as problem:
            raise options.problem("rules", f"entry {number} {problem}") from None
    return rules


def _tools(options: Options, given: Any) -> list[Rule]:
    """`tools: {name: {require_approval: true}}`, as bundles of the ecosystem have it."""
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise options.problem("tools", "must be a mapping of names to options")
    rules: list[Rule] = []
    for name, entry in cast("Mapping[Any, Any]", given).items():
        asked = mapping(entry).get("require_approval")
        if not isinstance(asked, bool):
            raise options.problem("tools", f"must say require_approval: true or false for {name}")
        rules.append(Rule("ask" if asked else "allow", (str(name),)))
    return rules


@dataclass(frozen=True, slots=True)
class Decision:
    granted: bool
    reason: str = ""
    remember: bool = False


class Approvals:
    """The approvals of one session."""

    def __init__(self, coordinator: Any, options: ApprovalOptions) -> None:
        self._coordinator = coordinator
        self._options = options
        self._provider: Any = None
        self._remembered: set[str] = set()

    def register_provider(self, provider: Any) -> Callable[[], None]:
        """Ask this provider from now on; the answer takes it away again."""
        self._provider = provider

        def remove() -> None:
            if self._provider is provider:
                self._provider = None

        return remove

    async def on_tool_pre(self, event: str, data: dict[str, Any]) -> HookResult:
        try:
            return await self._answer(data)
        except Exception:  # a hook that raises is passed over, and the call would run
            logger.exception("a tool call could not be judged", extra={"tool": str(data.get("tool_name"))})
            return _denied("it could not be decided whether it may run")

    async def _answer(self, data: Mapping[str, Any]) -> HookResult:
        tool = data.get("tool_name")
        if not isinstance(tool, str) or not tool:
            return _denied("it does not say which tool it is for")
        otherwise, asked_for = self._otherwise(tool), tool in (self._coordinator.session_state.get(_ASKED_FOR) or ())
        folder: Any = self._coordinator.get_capability("session.working_dir")

        def judged() -> tuple[Call, Verdict, str]:  # looks at the file system
            home = resolved(".", str(folder)) if folder else None
            call = Call(tool, mapping(data.get("tool_input")), home)
            return call, judge(self._options.rules, call, otherwise), remembered_as(call)

        call, verdict, key = await asyncio.to_thread(judged)
        if verdict.action == "deny":
            reason = verdict.reason or "a rule forbids it"
            await self._tell(APPROVAL_DENIED, call, reason=reason)
            return _denied(reason)
        if key in self._remembered or (verdict.action == "allow" and not asked_for):
            return CONTINUE
        decision = await self._ask(call, verdict.reason)
        if not decision.granted:
            return _denied(decision.reason)
        if decision.remember and len(self._remembered) < MAX_REMEMBERED:
            self._remembered.add(key)
        return CONTINUE

    def _otherwise(self, tool: str) -> Action:
        """What happens to a call that no rule is about."""
        tools: Mapping[str, Any] = self._coordinator.get("tools") or {}
        reads = getattr(tools.get(tool), "read_only", None) is True
        return self._options.read_only if reads else self._options.otherwise

    async def _ask(self, call: Call, why: str | None) -> Decision:
        prompt = self._prompt(call, why)
        await self._tell(APPROVAL_REQUIRED, call, action=prompt, risk_level=_risk(call))
        if self._provider is not None:
            decision = await self._ask_provider(self._provider, call, prompt)
        elif getattr(self._coordinator, "approval_system", None) is not None:
            decision = await self._ask_system(self._coordinator.approval_system, prompt)
        else:
            decision = Decision(False, "it needs an approval and there is nobody to ask")
        shown = decision.reason or ("approved" if decision.granted else "not approved")
        await self._tell(APPROVAL_GRANTED if decision.granted else APPROVAL_DENIED, call, reason=shown)
        return replace(decision, reason=shown)

    async def _ask_provider(self, provider: Any, call: Call, prompt: str) -> Decision:
        request = _interfaces.ApprovalRequest(
            tool_name=call.tool,
            action=prompt,
            details={"arguments": masked_value(self._coordinator, dict(call.arguments)), "digest": digest(call)},
            risk_level=_risk(call),
            timeout=self._options.timeout,
        )
        try:
            async with asyncio.timeout(self._options.timeout):
                response = await provider.request_approval(request)
        except TimeoutError:
            return self._unanswered()
        granted = getattr(response, "approved", None) is True
        remember = getattr(response, "remember", None) is True
        return Decision(granted, str(getattr(response, "reason", None) or ""), remember)

    async def _ask_system(self, system: Any, prompt: str) -> Decision:
        options = self._options
        try:
            async with asyncio.timeout(options.timeout):
                answer = system.request_approval(prompt, [ONCE, ALWAYS, DENY], options.timeout, options.unanswered)
                if inspect.isawaitable(answer):
                    answer = await answer
        except (TimeoutError, ApprovalTimeoutError):
            return self._unanswered()
        said = str(answer).strip().lower() if isinstance(answer, str) else ""
        return Decision(said in _GRANTED, "" if said in _GRANTED else "not approved", said == ALWAYS.lower())

    def _unanswered(self) -> Decision:
        return Decision(self._options.unanswered == "allow", "nobody answered in time")

    def _prompt(self, call: Call, why: str | None) -> str:
        arguments = masked_value(self._coordinator, dict(call.arguments))
        shown = visible(json.dumps(arguments, ensure_ascii=False, indent=2, default=str))
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]} [… {len(shown) - _SHOWN:,} more characters]"
        because = f" ({why})" if why else ""
        return f"Run the tool {visible(call.tool)}{because}?\n{shown}"

    async def _tell(self, event: str, call: Call, **facts: Any) -> None:
        shown = {key: masked_text(self._coordinator, str(value)) for key, value in facts.items()}
        await self._coordinator.hooks.emit(event, {"tool_name": call.tool, "digest": digest(call), **shown})


def digest(call: Call) -> str:
    """Of the exact call: the same for the same tool with the same arguments, and for no other."""
    exact = json.dumps([call.tool, call.arguments], sort_keys=True, default=str)
    return hashlib.sha256(exact.encode("utf-8", "surrogatepass")).hexdigest()


def remembered_as(call: Call) -> str:
    """What "always" stands for: this tool with these files, whatever is written into them, or else with exactly these
    arguments: one that says what is done with a file is part of what was approved.
    """
    paths = call.paths()
    if not set(call.arguments) <= _ABOUT_FILES or not paths or None in paths:
        return digest(call)
    return digest(Call(call.tool, {"paths": paths}, None))


def visible(text: str) -> str:
    """The text with everything that would change how the rest is shown written out."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)


def _risk(call: Call) -> str:
    return "high" if call.has_command() else "medium"


def _denied(reason: str) -> HookResult:
    return HookResult(action="deny", reason=reason)


async def mount(coordinator: Any, config: Mapping[str, Any] | None = None) -> Callable[[], None]:
    options = ApprovalOptions.read(config)
    approvals = Approvals(coordinator, options)
    handlers = Registrations(coordinator, MODULE_ID, options.priority)
    handlers.on(TOOL_PRE, approvals.on_tool_pre)
    coordinator.register_capability(REGISTER_CAPABILITY, approvals.register_provider)

    def close() -> None:
        handlers.close()
        coordinator.register_capability(REGISTER_CAPABILITY, None)

    return close
