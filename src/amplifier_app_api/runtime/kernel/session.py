"""One session on the kernel."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amplifier_core import AmplifierSession

from amplifier_app_api.bundles.activation import Activation
from amplifier_app_api.bundles.mentions import MentionScope
from amplifier_app_api.bundles.prompt import BuiltPrompt
from amplifier_app_api.runtime.kernel.approval import REGISTER_PROVIDER, Asker, KernelApprovals, ProviderApprovals
from amplifier_app_api.runtime.kernel.dispose import dispose
from amplifier_app_api.runtime.kernel.loader import LoadFailure, ModuleTable, SessionLoader
from amplifier_app_api.runtime.kernel.mentions import MENTIONS_RESOLVED, offer_mentions
from amplifier_app_api.runtime.kernel.proxies import CoordinatorProxy, OrchestratorProxy, is_proxy
from amplifier_app_api.runtime.kernel.tap import NoticeSink, Tap

logger = logging.getLogger(__name__)

CLEANUP_LIMIT_SECONDS = 5.0


class MountFailed(Exception):
    """Modules that could not be mounted."""

    def __init__(self, failures: Sequence[LoadFailure]) -> None:
        super().__init__("; ".join(f"{failure.module}: {failure.detail}" for failure in failures))
        self.failures = tuple(failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a kernel session is made of.

    `plan` belongs to the session: the kernel and its modules keep it and write into it. `messages` are the dicts
    that a context of this session was given before. `prompt` is asked for every request. `file_limits` are
    the folders, `readable` and `writable`, that no option of a module may lead out of. `mentions` is what modules
    may read by mention; nothing when the bundle has no prompt. `capabilities` are what else they may ask for by name.
    """

    session_id: str
    plan: dict[str, Any]
    activations: Mapping[str, Activation]
    working_dir: str
    prompt: Callable[[], Awaitable[BuiltPrompt]]
    file_limits: Mapping[str, Sequence[str]]
    messages: Sequence[dict[str, Any]] = ()
    parent_id: str | None = None
    allow_missing: bool = False
    mentions: MentionScope | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class _Display:
    """The kernel's display: what modules show to people becomes a notice."""

    sink: NoticeSink

    def show_message(self, message: str, level: str = "info", source: str = "hook") -> None:
        self.sink.notice(level, message, source)


@dataclass
class KernelSession:
    """A mounted session: runs turns, one at a time, and can be stopped.

    `tap` is told what the modules do while it is set; `asker` asks people for them. `missing` is what could not be
    mounted and may be missed.
    """

    session: Any
    loader: SessionLoader
    tap: Tap | None = None
    asker: Asker | None = None
    missing: tuple[LoadFailure, ...] = ()
    _orchestrator: OrchestratorProxy | None = field(default=None)
    _closed: bool = False

    @classmethod
    async def open(cls, opening: Opening, table: ModuleTable, notices: NoticeSink) -> "KernelSession":
        """Mount everything of the plan. `MountFailed`: something could not be mounted and may not be missed."""
        session: Any = AmplifierSession(
            opening.plan,
            session_id=opening.session_id,
            parent_id=opening.parent_id,
            display_system=_Display(notices),
            is_resumed=bool(opening.messages),
        )
        try:
            return await cls._mounted(session, opening, table)
        except BaseException:
            await _clean_up(session)
            dispose(session)
            raise

    @classmethod
    async def _mounted(cls, session: Any, opening: Opening, table: ModuleTable) -> "KernelSession":
        opened: KernelSession

        def current_tap() -> Tap | None:
            return opened.tap

        def current_asker() -> Asker | None:
            return opened.asker

        coordinator = CoordinatorProxy(session.coordinator, current_tap)
        loader = SessionLoader(table, opening.activations, kinds_of(opening.plan), coordinator)
        opened = cls(session, loader)
        session.coordinator.loader = loader
        if session.coordinator.approval_system is None:
            session.coordinator.approval_system = KernelApprovals(current_asker)
        session.coordinator.register_capability("session.working_dir", opening.working_dir)
        session.coordinator.register_capability("host.file_limits", opening.file_limits)
        for name, capability in opening.capabilities.items():
            session.coordinator.register_capability(name, capability)
        try:
            await session.initialize()
        except (RuntimeError, ValueError) as error:
            raise MountFailed(loader.failures or [LoadFailure("kernel", "session", str(error))]) from error
        optional = [failure for failure in loader.failures if failure.kind in ("tool", "hook")]
        fatal = [failure for failure in loader.failures if failure not in optional or not opening.allow_missing]
        if fatal:
            raise MountFailed(fatal)
        opened.missing = tuple(optional)
        if opening.mentions is not None:
            offer_mentions(session.coordinator, opening.mentions)
        register = session.coordinator.get_capability(REGISTER_PROVIDER)
        if register is not None:
            register(ProviderApprovals(current_asker))
        orchestrator = session.coordinator.get("orchestrator")
        opened._orchestrator = orchestrator if isinstance(orchestrator, OrchestratorProxy) else None
        try:
            await _fill_context(session.coordinator.get("context"), opening, coordinator)
        except Exception as error:
            module = next((name for name, kind in loader.kinds.items() if kind == "context"), "context")
            raise MountFailed([LoadFailure(module, "context", str(error) or type(error).__name__)]) from error
        return opened

    async def execute(self, prompt: str, *, resume: bool = False) -> str:
        """Run one turn to its end and return the loop's answer. `resume` goes on with the last one of the history.

        Whatever goes wrong comes out as `RuntimeError`; what it really was, the tap has seen.
        """
        self.session.coordinator.cancellation.reset()
        self.session.coordinator.reset_turn()
        if self._orchestrator is not None:
            self._orchestrator.resuming = resume
        return await self.session.execute(prompt)

    @property
    def can_resume(self) -> bool:
        """Whether the loop goes on with a turn that another process began."""
        return self._orchestrator is not None and self._orchestrator.can_resume

    @property
    def steer(self) -> Callable[[str], Any] | None:
        """How the loop is told something while it runs; None when it listens to nobody."""
        return self.session.coordinator.get_capability("session.steer")

    @property
    def redactor(self) -> Any:
        """What a module offers to mask texts with; None where no module does."""
        return self.session.coordinator.get_capability("session.redactor")

    def adopt(self, child: "KernelSession") -> Callable[[], None]:
        """Let the modules of a child see that this session is being stopped, until what is returned is called."""
        mine, its = self.session.coordinator.cancellation, child.session.coordinator.cancellation
        mine.register_child(its)
        return lambda: mine.unregister_child(its)

    def ask_to_stop(self) -> None:
        """Ask the loop to end after the tools that run now."""
        self.session.coordinator.cancellation.request_graceful()

    def stop(self) -> None:
        """Stop the loop wherever it is: its task is cancelled, and with it the provider's connection."""
        self.session.coordinator.cancellation.request_immediate()
        task: asyncio.Task[Any] | None = self._orchestrator.task if self._orchestrator is not None else None
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Clean up once, then let go. Safe to call again."""
        if self._closed:
            return
        self._closed = True
        self.tap = self.asker = None
        try:
            await _clean_up(self.session)
        finally:
            dispose(self.session)
            self._orchestrator = None
            self.loader.coordinator = None


async def _clean_up(session: Any) -> None:
    try:
        async with asyncio.timeout(CLEANUP_LIMIT_SECONDS):
            await session.cleanup()
    except TimeoutError:
        logger.warning("a module did not clean up in time", extra={"session_id": session.session_id})


async def _fill_context(context: Any, opening: Opening, coordinator: CoordinatorProxy) -> None:
    inner = context._inner if is_proxy(context) else context
    messages = list(opening.messages)
    seen: set[str] = set()
    builds = 0

    async def prompt() -> str:
        nonlocal builds
        builds += 1
        built = await opening.prompt()
        facts = built.event(seen, turn=builds)
        if facts is not None:
            await coordinator.hooks.emit(MENTIONS_RESOLVED, facts)
        return built.text or ""

    now = await opening.prompt()
    if now.text is not None and hasattr(inner, "set_system_prompt_factory"):
        await inner.set_system_prompt_factory(prompt)
    elif now.text is not None:
        messages.insert(0, {"role": "system", "content": now.text})
    if messages:
        await inner.set_messages(messages)


def kinds_of(plan: Mapping[str, Any]) -> dict[str, str]:
    """What each module of a plan is, by its id."""
    kinds: dict[str, str] = {}
    session: Mapping[str, Any] = plan.get("session") or {}
    for kind in ("orchestrator", "context"):
        spec = session.get(kind)
        module = spec.get("module") if isinstance(spec, Mapping) else spec  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(module, str):
            kinds[module] = kind
    for section, kind in (("providers", "provider"), ("tools", "tool"), ("hooks", "hook")):
        for entry in plan.get(section) or ():
            if "module" in entry:
                kinds[entry["module"]] = kind
    return kinds
