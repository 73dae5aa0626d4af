"""Runs the vectors that need the real kernel through our own opening of sessions.

The entry of a case is what a stored config includes, so it goes the way of every session: prepared, activated, its
modules loaded by our loader, mounted on the kernel. Each case stands for a process of its own. Where we decided
otherwise, `kernel_deviations.toml` says so: `changes` are laid over the real library's answer, `expected` replaces it.
"""

import asyncio
import copy
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from amplifier_app_api.bundles import Bundle, VariableScope
from amplifier_app_api.errors import AppError
from amplifier_app_api.runtime.kernel.proxies import json_copy
from amplifier_app_api.runtime.kernel.session import KernelSession
from amplifier_app_api.runtime.kernel.spawning import Host, SpawnRequest, spawn
from amplifier_app_api.runtime.opening import OpenedSession, OpenRequest, SessionOpener
from amplifier_app_api.runtime.options import RuntimeOptions
from contract import vector_runner as vectors
from third_party import Silent, forget_modules, package_of

Answer = dict[str, Any]

CAPABILITIES = (
    "session.working_dir",
    "bundle_package_paths",
    "mention_resolver",
    "mention_deduplicator",
    "session.spawn",
    "session.resume",
    "self_delegation_depth",
    "probe.seen_at_mount",
)
REFUSALS = {"missing_section", "module_not_found", "module_failed", "module_conflict", "source_not_allowed"}


def deviations() -> dict[str, dict[str, Any]]:
    """Our own answers by case: `rule`, `reason`, and `expected` or `changes`, as JSON text."""
    return tomllib.loads((vectors.HERE / "kernel_deviations.toml").read_text("utf-8"))


def expected_answer(case: vectors.Case) -> Answer:
    """What a case must answer: the real library's answer with our deviations put in."""
    deviation = deviations().get(case.name, {})
    if "expected" in deviation:
        return json.loads(deviation["expected"])
    expected = vectors.library_answer(case)
    return _laid_over(expected, json.loads(deviation.get("changes", "{}")))


def _laid_over(value: Any, changes: Any) -> Any:
    """A merge patch: mappings merge, nothing takes a key away, everything else replaces."""
    if not isinstance(value, dict) or not isinstance(changes, dict):
        return changes
    merged = {**value, **{key: _laid_over(value.get(key), change) for key, change in changes.items()}}
    return {key: item for key, item in merged.items() if key not in changes or changes[key] is not None}


def matches(answer: Answer, expected: Answer) -> bool:
    """Whether an answer agrees: reports exactly, refusals by code or, where the library's is meant, by family."""
    if expected.get("ok") is False:
        codes = answer.get("codes", [])
        return bool(codes) and (codes == expected["codes"] if "codes" in expected else set(codes) <= REFUSALS)
    return comparable(answer) == comparable(expected)


def comparable(value: Any) -> Any:
    """A report without what belongs to the real library alone.

    Its resolver and the metadata for its configurator do not exist here, and its classes have other names. Sources
    below `session` start from the folder of their own document, so they are absolute where the library's are not.
    """
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if not isinstance(value, dict):
        return value
    report = {
        key: comparable(item) for key, item in value.items() if key not in ("resolver", "hook_metadata", "warnings")
    }
    for name in ("mention_resolver", "mention_deduplicator"):
        if name in report:
            report[name] = bool(report[name])
    if isinstance(report.get("source"), str):
        report["source"] = re.sub(r"^\.\.?/modules/", "<root>/modules/", report["source"])
    return report


async def run_case(case: vectors.Case, home: Path) -> Answer:
    """Lay the case out below an empty folder and answer it, absolute paths put back to placeholders."""
    root = home / "root"
    spec = _laid_out(case, root)
    sys.path.insert(0, str(root / "site"))
    try:
        answer = await KINDS[case.spec["kind"]](spec, Process(root))
    finally:
        sys.path.remove(str(root / "site"))
        forget_modules(root)
    return json.loads(json.dumps(answer).replace(str(root), "<root>"))


def _laid_out(case: vectors.Case, root: Path) -> dict[str, Any]:
    """The case with its files in place, `<root>` put in everywhere."""
    root.mkdir()
    for module in case.options.get("install_shared", ()):
        _install(vectors.VECTORS / "_shared" / "modules" / module, root / "site")
    parts = [case.folder / "in", *(vectors.VECTORS / "_shared" / name for name in case.options.get("shared", ()))]
    for part in parts:
        if part.exists():
            shutil.copytree(part, root / part.name if part.name != "in" else root, dirs_exist_ok=True)
    for file in root.rglob("*"):
        if file.is_file() and "<root>" in (text := file.read_text("utf-8")):
            file.write_text(text.replace("<root>", str(root)), "utf-8")
    return json.loads(json.dumps(case.spec).replace("<root>", str(root)))


def _install(module: Path, site: Path) -> None:
    """Lay a stub module out as an installed distribution."""
    package = package_of(module.name)
    shutil.copytree(module / package, site / package)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.name}\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[amplifier.modules]\n{module.name} = {package}:mount\n", "utf-8")


@dataclass
class Process:
    """A server that has just started, with the files of a case as what it may read."""

    root: Path

    def __post_init__(self) -> None:
        self.notices = Silent()
        options = RuntimeOptions(data_dir=self.root.parent / "data", source_roots=(self.root,), environment={})
        self.opener = SessionOpener(options)

    def text(self, entry: str, **sections: Any) -> str:
        return yaml.safe_dump({"bundle": {"name": "stored"}, "includes": [{"bundle": entry}], **sections})

    async def open(self, entry: str, *, session_id: str = "sess-1", **request: Any) -> OpenedSession:
        """A session of a config that includes the entry. Its folder is what the library would choose."""
        sections = request.pop("sections", {})
        return await self.opener.open(
            OpenRequest(
                tenant_id="t",
                session_id=session_id,
                text=self.text(entry, **sections),
                working_dir=request.pop("working_dir", None) or str(Path(entry).parent),
                variables={},
                **request,
            ),
            self.notices,
        )


async def _attempt(produce: Callable[[], Awaitable[Any]]) -> Answer:
    try:
        return {"ok": True, "result": await produce()}
    except AppError as error:
        return {"ok": False, "codes": [item.code for item in error.items] or [error.code]}


async def _session(spec: dict[str, Any], process: Process) -> Answer:
    options = spec["options"]

    async def report() -> Answer:
        opened = await process.open(
            spec["entry"],
            working_dir=options.get("session_cwd"),
            parent_id=options.get("parent_id"),
            messages=options.get("restored", ()),
        )
        try:
            return await _report(spec, process, opened.kernel)
        finally:
            await opened.kernel.close()

    return await _attempt(report)


async def _report(spec: dict[str, Any], process: Process, kernel: KernelSession) -> Answer:
    options = spec["options"]
    session, coordinator = kernel.session, kernel.session.coordinator
    probe: list[str] | None = coordinator.get_capability("probe.events")
    seen = [] if probe is None else probe
    prepared = await process.opener.prepared(process.text(spec["entry"]), tenant="t")
    contributed = await coordinator.collect_contributions("observability.events")
    report: Answer = {
        "session_id": session.session_id,
        "parent_id": session.parent_id,
        "initialized": session.initialized,
        "ux_passed_through": coordinator.display_system.sink is process.notices,
        "capabilities": {name: _shown(coordinator.get_capability(name)) for name in CAPABILITIES},
        "mounted": {
            "orchestrator": coordinator.get("orchestrator") is not None,
            "context": coordinator.get("context") is not None,
            "providers": list(coordinator.get("providers")),
            "tools": list(coordinator.get("tools")),
        },
        "messages_after_create": await coordinator.get("context").get_messages(),
        "mount_plan": prepared.plan(),
        "observability_events": [name for names in contributed for name in names],
        "events_during_create": list(seen),
    }
    if "prompt" in options:
        del seen[:]
        report["execute"] = json.loads(await kernel.execute(options["prompt"]))
        report["events_during_execute"] = list(seen)
    if "spawn" in options:
        before = copy.deepcopy(coordinator.config)
        report["spawn"] = await _spawned(options["spawn"], process, kernel, spec["entry"])
        report["parent_config_unchanged"] = coordinator.config == before
    del seen[:]
    await kernel.close()
    report["events_during_cleanup"] = list(seen)
    return report


def _shown(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | dict) else {"$object": type(value).__name__}


async def _spawned(asked: dict[str, Any], process: Process, kernel: KernelSession, entry: str) -> Answer:
    prepared = await process.opener.prepared(process.text(entry), tenant="t")
    child = Bundle.from_data(asked["child"]["data"], instruction=asked["child"].get("instruction"))
    has_parent = asked.get("with_parent", True)
    request = SpawnRequest(
        child=child,
        instruction=asked["instruction"],
        is_composed=asked.get("compose", True),
        session_id=asked.get("session_id"),
        messages=asked.get("parent_messages", ()),
        orchestrator_options=asked.get("orchestrator_config", {}),
        preferences=asked.get("provider_preferences", ()),
        depth=asked.get("self_delegation_depth", 0),
        # A stored config has no folder to fall back to; the library takes that of its bundle.
        working_dir=None if has_parent else str(Path(entry).parent),
    )
    host = Host(
        table=kernel.loader.table,
        sources=process.opener.sources({}),
        scope=VariableScope({}, {}, ()),
        file_limits={"readable": [], "writable": []},
    )
    spawned = await spawn(request, prepared, kernel if has_parent else None, host)
    output = json.loads(spawned.output)
    assert output["session_id"] == spawned.session_id
    shown = spawned.session_id if request.session_id else "<generated>"
    return {
        "output": {**output, "session_id": shown},
        "session_id": shown,
        "status": spawned.status,
        "turn_count": spawned.turn_count,
        "metadata": dict(spawned.metadata),
    }


async def _entry_points(spec: dict[str, Any], process: Process) -> Answer:
    """The bundle as it is, and once more without what our server refuses in it."""

    async def tools(entry: str) -> Answer:
        opened = await process.open(entry, allow_missing=True)
        coordinator = opened.kernel.session.coordinator
        mounted = {"tools": list(coordinator.get("tools")), "providers": list(coordinator.get("providers"))}
        await opened.kernel.close()
        return mounted

    plain = _without_sources(Path(spec["entry"]))
    as_it_is = await _attempt(lambda: process.open(spec["entry"]))
    without_source = await _attempt(lambda: tools(plain))
    return {"ok": True, "result": {"as_it_is": as_it_is, "without_source": without_source}}


def _without_sources(entry: Path) -> str:
    """A copy of a bundle that says nowhere where its modules come from."""
    copied = entry.with_name("plain.yaml")
    copied.write_text(re.sub(r", source: '[^']*'", "", entry.read_text("utf-8")), "utf-8")
    return str(copied)


async def _load_failures(spec: dict[str, Any], process: Process) -> Answer:
    """What the host knows of modules that could not be loaded, in a session that may do without them."""

    async def report() -> Answer:
        opened = await process.open(spec["entry"], allow_missing=True)
        coordinator = opened.kernel.session.coordinator
        known = [{"module_type": module.kind, "module_id": module.module} for module in opened.degraded]
        seen = [event for event in coordinator.get_capability("probe.events") if event == "module:load_failed"]
        tools = list(coordinator.get("tools"))
        await opened.kernel.close()
        return {"known_to_the_host": known, "seen_by_bundle_hook": seen, "tools": tools}

    return await _attempt(report)


async def _shared_state(spec: dict[str, Any], process: Process) -> Answer:
    async def report() -> Answer:
        one, two = await asyncio.gather(
            *(process.open(spec["entry"], session_id=session_id) for session_id in ("one", "two"))
        )
        prepared = await process.opener.prepared(process.text(spec["entry"]), tenant="t")
        first, second = one.kernel.session.coordinator.config, two.kernel.session.coordinator.config
        first["agents"]["scout"]["added_by_one"] = True
        answer = {
            "same_config_object": first is second,
            "config_is_prepared_mount_plan": first is prepared.mount_plan,
            "visible_in_two": second["agents"]["scout"],
            "visible_in_bundle": dict(prepared.bundle.agents["scout"]),
        }
        for opened in (one, two):
            await opened.kernel.close()
        return answer

    return await _attempt(report)


async def _two_sessions(spec: dict[str, Any], process: Process) -> Answer:
    answers: list[Answer] = []
    for number, entry in enumerate(spec["entries"]):

        async def tools(entry: str = entry, number: int = number) -> Answer:
            # The bundles name no provider, and a config that runs has one.
            provider = {"providers": [{"module": "provider-scripted"}]}
            opened = await process.open(entry, session_id=f"s{number}", sections=provider)
            mounted = opened.kernel.session.coordinator.get("tools")
            described = {name: tool.description for name, tool in mounted.items()}
            await opened.kernel.close()
            return {"tools": list(described), "tool_descriptions": described}

        answer = await _attempt(tools)
        answers.append({"entry": entry, "ok": answer["ok"], **(answer.get("result") or {"codes": answer.get("codes")})})
    return {"ok": True, "result": answers}


async def _kept_messages(spec: dict[str, Any], process: Process) -> Answer:
    """What of a message is kept when a loop adds it."""
    kept = [{"id": item["id"], "ok": True, "result": json_copy(item["message"])} for item in spec["items"]]
    return {"ok": True, "result": kept}


KINDS: dict[str, Callable[[dict[str, Any], Process], Awaitable[Answer]]] = {
    "session": _session,
    "entry-points": _entry_points,
    "load-failure-events": _load_failures,
    "shared-state": _shared_state,
    "two-sessions": _two_sessions,
    "sanitize-message": _kept_messages,
}
