"""Both ways in which modules ask a person, as one question to the host.

The kernel asks for a hook that returned `ask_user`; a module that offers `approval.register_provider` asks by itself.
Either runs in a context of the loop's, so the tool call it is about is known. Cancelling the loop does not reach
the kernel's question: the host lets go of it when the turn ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from amplifier_core import ApprovalResponse
from amplifier_core.approval import ApprovalTimeoutError

from amplifier_app_api.runtime.kernel.proxies import CallInHand, current_call

REGISTER_PROVIDER = "approval.register_provider"
GRANTS = frozenset({"allow", "allow once", "allow always"})
"""The kernel lets a tool run after these answers, in any case of letters, and after no other."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a module asks. `call` is the tool call it is about; `timeout` is in seconds, None without a limit.

    `arguments` are exactly those of the call, or what the module told of it.
    """

    prompt: str
    options: tuple[str, ...]
    default: str
    timeout: float | None
    tool: str
    call_id: str | None
    arguments: Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided. `expired`: nobody answered in time, and `decision` is the default."""

    decision: str
    reason: str | None = None
    remember: bool = False
    expired: bool = False

    @property
    def granted(self) -> bool:
        """Whether the tool may run."""
        return self.decision.lower() in GRANTS


class Asker(Protocol):
    """Who puts questions to people."""

    async def ask(self, question: Question) -> Verdict:
        """Ask, and wait for the answer."""
        ...


CurrentAsker = Callable[[], Asker | None]


class KernelApprovals:
    """The approval system of a kernel session. Between turns nobody can be asked, and the answer is no."""

    def __init__(self, asker: CurrentAsker) -> None:
        self._asker = asker

    async def request_approval(self, prompt: str, options: Sequence[str], timeout: float, default: str) -> str:  # noqa: ASYNC109 - the kernel's signature
        """Ask for a hook that returned `ask_user`; `ApprovalTimeoutError` lets the kernel apply its default."""
        asker = self._asker()
        if asker is None:
            return "deny"
        call = current_call.get()
        verdict = await asker.ask(
            Question(
                prompt=prompt,
                options=tuple(map(str, options)),
                default=default,
                timeout=timeout,
                tool="" if call is None else call.tool,
                call_id=None if call is None else call.call_id,
                arguments=None if call is None else call.arguments,
            )
        )
        if verdict.expired:
            raise ApprovalTimeoutError(prompt)
        return verdict.decision


class ProviderApprovals:
    """The provider that a module of its own approvals is given."""

    def __init__(self, asker: CurrentAsker) -> None:
        self._asker = asker

    async def request_approval(self, request: Any) -> Any:
        """Ask what an `ApprovalRequest` says; `TimeoutError` when nobody answers in time."""
        asker = self._asker()
        if asker is None:
            return ApprovalResponse(approved=False, reason="No turn runs in which somebody could be asked")
        verdict = await asker.ask(_question_of(request, current_call.get()))
        if verdict.expired:
            raise TimeoutError(request.action)
        return ApprovalResponse(approved=verdict.granted, reason=verdict.reason, remember=verdict.remember)


def _question_of(request: Any, call: CallInHand | None) -> Question:
    about = call if call is not None and call.tool == request.tool_name else None
    exact = about is not None and about.arguments is not None
    return Question(
        prompt=request.action,
        options=("allow", "deny"),
        default="deny",
        timeout=request.timeout,
        tool=request.tool_name,
        call_id=None if about is None else about.call_id,
        arguments=about.arguments if exact and about is not None else request.details,
    )
