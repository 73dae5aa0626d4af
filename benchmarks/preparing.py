"""Preparing a large bundle, from folders and from git; its plan; opening sessions from each kind of module.

"New text" is a document that differs in its name alone, so that it is prepared in full. Repositories "not seen
before" are copies: their objects are fetched, and their files written.
"""

import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import large_bundle as large
from figures import Figure, Samples, flat, ratio, ratio_of_rounds, timed
from running import main

from amplifier_app_api.bundles import Document, PreparedBundle
from amplifier_app_api.core.planner import Planner
from amplifier_app_api.runtime.live_session import LiveSession
from amplifier_app_api.runtime.opening import OpenRequest, SessionOpener
from amplifier_app_api.runtime.options import RuntimeOptions

ROUNDS = 21
OPENINGS = 10
INSTALLED = "tool-bench-installed"
FOLDER = "tool-bench-folder"

NEW = "40 includes, 60 modules from folders: new text"
KEPT = "the same text again"
GIT_NEW = "from a repository not seen before"
GIT_KNOWN = "from a repository fetched already: new text"
GIT_KEPT = "from git, the same text again"
PLAN = "plan of a prepared text"

ALONE = "built-in modules alone"
BUILT_IN_TOOL = "and one built-in tool"
INSTALLED_TOOL = "and one installed tool"
FOLDER_TOOL = "and one tool from a folder"
LARGE = "and 60 tools from folders"


@dataclass(frozen=True)
class Bench:
    """A process with its modules on disk, and what was measured, in rounds."""

    folder: Path
    opener: SessionOpener
    options: RuntimeOptions
    rounds: defaultdict[str, list[list[float]]] = field(default_factory=lambda: defaultdict(list))

    async def prepare(self, text: str) -> PreparedBundle:
        """As every opening of a session does; a bundle that cannot run is no figure."""
        prepared = await self.opener.prepared(text, tenant="local")
        prepared.require_runnable()
        return prepared

    def note(self, name: str, samples: Samples) -> None:
        self.rounds[name].append(samples.wall)

    def figure(self, name: str) -> Figure:
        return timed(name, flat(self.rounds[name]))

    def quotient(self, title: str, above: str, below: str) -> Figure:
        return ratio(title, ratio_of_rounds(self.rounds[above], self.rounds[below]))


async def measure() -> list[Figure]:
    """Every figure of this page."""
    async with _bench() as bench:
        kinds = _kinds(bench)
        first = Samples()
        await bench.prepare(kinds[LARGE])
        await _open_one(bench, kinds[LARGE], first)
        for number in range(ROUNDS + 1):
            if number == 1:
                bench.rounds.clear()  # the round before warmed up
            await _prepare_from_folders(bench, number)
            await _prepare_from_git(bench, number)
            for kind, text in kinds.items():
                await _open(bench, kind, text)
        grown = statistics.median(flat(bench.rounds[LARGE])) - statistics.median(flat(bench.rounds[ALONE]))
        return [
            *(bench.figure(name) for name in (NEW, KEPT, PLAN, GIT_NEW, GIT_KNOWN, GIT_KEPT)),
            bench.quotient("new text : the same text again", NEW, KEPT),
            bench.quotient("plan : new text", PLAN, NEW),
            bench.quotient("repository not seen before : folders", GIT_NEW, NEW),
            bench.quotient("repository fetched already : folders", GIT_KNOWN, NEW),
            Figure("opening a session for the first time: 60 tools from folders", first.wall[0] * 1000, "ms"),
            *(replace(bench.figure(kind), name=f"opening a session, prepared: {kind}") for kind in kinds),
            Figure("of it, one tool from a folder", grown / large.MODULES * 1000, "ms"),
            bench.quotient("one installed tool : one built-in tool", INSTALLED_TOOL, BUILT_IN_TOOL),
            bench.quotient("one tool from a folder : one built-in tool", FOLDER_TOOL, BUILT_IN_TOOL),
        ]


@asynccontextmanager
async def _bench() -> AsyncGenerator[Bench]:
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = _written(temporary)
        sys.path.insert(0, str(folder / "site"))
        options = RuntimeOptions(
            data_dir=folder / "data",
            source_roots=(folder / "large", folder / FOLDER),
            source_allow=(f"git+file://{folder}/*",),
            source_refresh=timedelta(hours=1),
        )
        opener = SessionOpener(options)
        try:
            yield Bench(folder, opener, options)
        finally:
            await opener.close()
            sys.path.remove(str(folder / "site"))


def _written(temporary: str) -> Path:
    folder = Path(temporary).resolve()
    large.write_bundles(folder / "large")
    large.write_module(folder, FOLDER)
    large.install_module(folder / "site", INSTALLED)
    shutil.copytree(folder / "large", folder / "repository")
    large.commit(folder / "repository")
    return folder


def _kinds(bench: Bench) -> dict[str, str]:
    """Documents to open, by what their modules are: the same loop, context and provider, and further tools."""
    source = f"{{module: {FOLDER}, source: {bench.folder / FOLDER}}}"
    return {
        ALONE: large.with_tools("alone"),
        BUILT_IN_TOOL: large.with_tools("built-in", "{module: tool-filesystem}"),
        INSTALLED_TOOL: large.with_tools("installed", f"{{module: {INSTALLED}}}"),
        FOLDER_TOOL: large.with_tools("folder", source),
        LARGE: large.document("large", large.from_folder(bench.folder / "large")),
    }


async def _prepare_from_folders(bench: Bench, number: int) -> None:
    text = large.document(f"local-{number}", large.from_folder(bench.folder / "large"))
    new, kept, planned = Samples(), Samples(), Samples()
    await new.of(bench.prepare(text))
    for _ in range(OPENINGS):
        await kept.of(bench.prepare(text))
    plan = await planned.of(_planner(bench).plan(text))
    if not plan.runnable or len(plan.modules) < large.MODULES:
        raise LookupError("the plan does not hold what was prepared")
    bench.note(NEW, new)
    bench.note(KEPT, kept)
    bench.note(PLAN, planned)


async def _prepare_from_git(bench: Bench, number: int) -> None:
    copy = bench.folder / f"copy-{number}"
    shutil.copytree(bench.folder / "repository" / ".git", copy)
    unseen, known, kept = Samples(), Samples(), Samples()
    await unseen.of(bench.prepare(large.document(f"unseen-{number}", large.from_git(copy))))
    text = large.document(f"known-{number}", large.from_git(copy))
    await known.of(bench.prepare(text))
    for _ in range(OPENINGS):
        await kept.of(bench.prepare(text))
    bench.note(GIT_NEW, unseen)
    bench.note(GIT_KNOWN, known)
    bench.note(GIT_KEPT, kept)


def _planner(bench: Bench) -> Planner:
    async def prepared(document: Document) -> PreparedBundle:
        return await bench.prepare(document.text)

    return Planner(
        prepare=prepared,
        sources=bench.opener.sources({}),
        environment=bench.options.environment,
        env_allow=bench.options.env_allow,
    )


async def _open(bench: Bench, kind: str, text: str) -> None:
    await bench.prepare(text)
    taken = Samples()
    for _ in range(OPENINGS):
        await _open_one(bench, text, taken)
    bench.note(kind, taken)


async def _open_one(bench: Bench, text: str, taken: Samples) -> None:
    """Open a session on a prepared text, and close it; what its row in the database costs is not in it."""
    request = OpenRequest(tenant_id="local", session_id="bench", text=text, working_dir=str(bench.folder), variables={})
    opened = await taken.of(bench.opener.open(request, LiveSession(request.session_id, request.tenant_id)))
    await opened.kernel.close()


if __name__ == "__main__":
    main(measure, limit_seconds=240)
