"""`prepare`: a stored document to everything a session is opened from.

Includes are resolved, layers composed, modules found, the mount plan built. What stands in the way of running
is collected, not raised, so that one answer names all of it; `require_runnable` is the bar itself. Variables
are found here and filled in only when a session opens: a prepared bundle holds no secret and is shared.
"""

import asyncio
import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amplifier_app_api.errors import ErrorItem

from .activation import Activation, ModuleProblem, activate
from .builtin import BUILTIN_FOLDER
from .bundle import Bundle, with_sources
from .dependencies import Installer
from .document import Document
from .fetched import Fetched, FetchOnce, Unresolved
from .folders import AllowedFolders, FileStamp
from .includes import Loaded, load_document, load_from
from .locating import Sources
from .mentions import Expansion, MentionScope, expand_mentions
from .mount_plan import kernel_plan
from .prompt import BuiltPrompt, SystemPrompt
from .shapes import MODULE_LISTS
from .uris import SourceUri
from .validation import NotRunnable, check_storable_document, located, problems_of_values
from .values import is_list, is_mapping, is_text, pointer, pointer_parts, quoted
from .variables import VariableUse, find_variables
from .waiting import in_waiting_thread

__all__ = ["PreparedBundle", "Sources", "activate_further", "load_further", "prepare"]


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True)
class PreparedBundle:
    """A composed document with its mount plan. Shared by every session opened from it: change nothing in place.

    `activations` are by module id. `module_problems` are those of `problems` that are about one module. The
    pointers of `variables` are into the mount plan, those of `problems` into the document as far as a problem
    has a place there. `sources` are the remote ones, in the order they were met.
    """

    bundle: Bundle
    mount_plan: dict[str, Any]
    activations: Mapping[str, Activation]
    problems: tuple[ErrorItem, ...]
    module_problems: tuple[ModuleProblem, ...]
    warnings: tuple[str, ...]
    variables: tuple[VariableUse, ...]
    fingerprint: str
    sources: tuple[Fetched, ...]
    files: tuple[FileStamp, ...] = field(repr=False)
    prompt: SystemPrompt = field(repr=False)

    def plan(self) -> dict[str, Any]:
        """A mount plan of the caller's own: the kernel keeps and changes the object it is given."""
        return copy.deepcopy(self.mount_plan)

    def is_current(self) -> bool:
        """Whether preparing again would find the same files. A few `stat` calls.

        Never with problems: what was missing may be there by now.
        """
        folders = (folder for found in self.activations.values() for folder in (found.path, *found.libraries) if folder)
        return (
            not self.problems
            and all(stamp.is_current() for stamp in self.files)
            and all(folder.is_dir() for folder in folders)
        )

    def pins(self) -> dict[str, str]:
        """What each remote source was, by its text: given to `Sources.pins`, preparing again finds the same."""
        return {source.uri: source.resolved for source in self.sources}

    async def system_prompt(self, working_dir: str | None = None) -> str | None:
        """The system prompt with the files as they are now; mentions without a namespace start in `working_dir`."""
        return (await self.prompt_with_mentions(working_dir)).text

    async def prompt_with_mentions(self, working_dir: str | None = None) -> BuiltPrompt:
        """The system prompt, and which files went into it."""
        return await self.prompt.build(Path(working_dir) if working_dir else None)

    async def expand_mentions(self, text: str, working_dir: str | None = None) -> Expansion:
        """A text that is sent to an agent, with the files it mentions in front of it."""
        scope = self.prompt.scope_in(Path(working_dir) if working_dir else None)
        return await asyncio.to_thread(expand_mentions, text, scope)

    def mentions_in(self, working_dir: str) -> MentionScope | None:
        """What modules of a session may read by mention; nothing when there is neither an instruction nor context."""
        if not self.prompt.instruction and not self.prompt.context:
            return None
        return self.prompt.scope_in(Path(working_dir))

    def require_runnable(self) -> None:
        """Raise `NotRunnable` with every problem when there is one."""
        if self.problems:
            raise NotRunnable(self.problems)


async def activate_further(prepared: PreparedBundle, module: str, source: str | None, sources: Sources) -> Activation:
    """One more module, which something at run time asks for: an agent that was defined by a module, say.

    What the bundle has stays what it is, whatever `source` says. `Unresolved` without a source or when it has no such
    module. Nothing is installed for it.
    """
    if (known := prepared.activations.get(module)) is not None:
        return known
    if not source:
        raise Unresolved("module_not_found", f"{module} is no module of this bundle, and no source says where it is.")
    wanted = Bundle(tools=({"module": module, "source": source},), folder=prepared.bundle.folder)
    active, problems = await in_waiting_thread(activate, wanted, _with_fetched(sources, prepared))
    if problems:
        raise Unresolved(problems[0].item.code, problems[0].item.detail)
    return active[module]


async def load_further(prepared: PreparedBundle, text: str, sources: Sources) -> Bundle:
    """One more bundle, which something at run time asks for by `namespace:path`, as the prepared one would include it.

    `Unresolved` when there is none, or it cannot be read.
    """
    loaded = await in_waiting_thread(load_from, prepared.bundle, text, _with_fetched(sources, prepared))
    if loaded.problems:
        raise Unresolved(loaded.problems[0].code, loaded.problems[0].detail)
    return loaded.bundle


def _with_fetched(sources: Sources, prepared: PreparedBundle) -> Sources:
    """The sources with what was fetched for a bundle among the folders that may be read."""
    return replace(sources, roots=(*sources.roots, *(fetched.source_root for fetched in prepared.sources)))


async def prepare(document: Document, *, sources: Sources, installer: Installer | None = None) -> PreparedBundle:
    """Prepare a stored document. A document below the storable bar is refused as `check_storable` does.

    What modules depend on is installed where there is an `installer`; without one what is missing is a problem.
    """
    return await in_waiting_thread(_prepare, document, sources, installer)


def _prepare(document: Document, sources: Sources, installer: Installer | None) -> PreparedBundle:
    check_storable_document(document)
    fetch = FetchOnce(sources.fetch) if sources.fetch else None
    loaded = load_document(document, replace(sources, fetch=fetch))
    bundle = loaded.bundle
    plan = kernel_plan(bundle)
    activations, problems_of_modules = _activated(bundle, replace(sources, fetch=fetch), installer)
    folders = AllowedFolders.of(*loaded.homes, *sources.roots)
    prompt = SystemPrompt.of(bundle, folders, sources.limits.max_bytes)
    fetched = fetch.met if fetch else ()
    of_modules = [
        replace(problem, item=_placed(_in_document(problem.item, document, plan), document))
        for problem in problems_of_modules
    ]
    problems = [
        *loaded.problems,
        *_relative_context(document, loaded),
        *_straying_context(document, sources),
        *_missing_sections(bundle),
        *(problem.item for problem in of_modules),
        *(_in_document(problem, document, plan) for problem in problems_of_values(plan)),
    ]
    return PreparedBundle(
        bundle=bundle,
        mount_plan=plan,
        activations=activations,
        problems=tuple(_placed(problem, document) for problem in problems),
        module_problems=tuple(of_modules),
        warnings=(*loaded.warnings, *_context_warnings(bundle, prompt), *_awaited(activations)),
        variables=find_variables(plan),
        fingerprint=_fingerprint(document, loaded, activations, fetched),
        sources=fetched,
        files=tuple(stamp for stamp in loaded.files if not stamp.path.is_relative_to(BUILTIN_FOLDER)),
        prompt=prompt,
    )


def _activated(
    bundle: Bundle, sources: Sources, installer: Installer | None
) -> tuple[dict[str, Activation], list[ModuleProblem]]:
    """The modules of a bundle; they may lie in the sources that bundles came from."""
    bundle = with_sources(bundle, sources.overrides)
    if not isinstance(sources.fetch, FetchOnce):
        return activate(bundle, sources, installer)
    readable = (*sources.roots, *(source.source_root for source in sources.fetch.met))
    remote = (spec.source for spec in bundle.modules() if spec.source and SourceUri.parse(spec.source).is_remote)
    sources.fetch.ahead((text, sources.pins.get(text)) for text in remote if "${" not in text)
    return activate(bundle, replace(sources, roots=readable), installer)


def _placed(problem: ErrorItem, document: Document) -> ErrorItem:
    return located(problem, document) if problem.pointer else problem


def _relative_context(document: Document, loaded: Loaded) -> Iterator[ErrorItem]:
    """Context the document itself names by a path that would need a folder."""
    for at, text in _own_context(document):
        namespace, colon, _ = text.partition(":") if at[1] == "include" else ("", "", "")
        own_namespace = namespace == loaded.bundle.name and namespace not in loaded.bundle.namespaces
        is_path = not colon if at[1] == "include" else not text.startswith("/")
        if is_path or (colon and own_namespace):
            detail = f"The context {quoted(text)} is relative to a folder and a stored document has none."
            yield ErrorItem(code="relative_reference", detail=detail, pointer=pointer(*at))


def _straying_context(document: Document, sources: Sources) -> Iterator[ErrorItem]:
    """Context the document itself names by an absolute path that may not be read."""
    roots = AllowedFolders.of(*sources.roots)
    for at, text in _own_context(document):
        if at[1] != "include" and text.startswith("/") and roots.holding(Path(text).resolve()) is None:
            detail = f"The context {quoted(text)} is not below one of AMPLIFIER_SOURCE_ROOTS."
            yield ErrorItem(code="source_not_allowed", detail=detail, pointer=pointer(*at))


def _own_context(document: Document) -> Iterator[tuple[tuple[str | int, ...], str]]:
    section = document.data.get("context")
    if not is_mapping(section):
        return
    for key, value in section.items():
        if key == "include" and is_list(value):
            yield from ((("context", "include", index), text) for index, text in enumerate(value))
        elif is_text(value):
            yield ("context", key), value


def _missing_sections(bundle: Bundle) -> Iterator[ErrorItem]:
    """What a session cannot be opened without."""
    for role in ("orchestrator", "context"):
        value: object = bundle.session.get(role)
        if not (is_text(value) or is_mapping(value)):
            detail = f"The composed bundle names no session.{role}."
            yield ErrorItem(code="missing_section", detail=detail, pointer=pointer("session", role))
    if not bundle.providers:
        detail = "The composed bundle names no provider: add one to providers."
        yield ErrorItem(code="missing_section", detail=detail, pointer="/providers")


def _in_document(problem: ErrorItem, document: Document, plan: dict[str, Any]) -> ErrorItem:
    """A problem of the plan at the place of the document that says the same; without one when an include says it."""
    parts = pointer_parts(problem.pointer or "")
    if parts[:1] == ["agents"] and document.position(problem.pointer or ""):
        return problem
    at = pointer(*parts[:2])
    if len(parts) > 1 and parts[0] in MODULE_LISTS:
        module = plan[parts[0]][int(parts[1])].get("module")
        entries: Any = document.data.get(parts[0]) or []
        own = (pointer(parts[0], index) for index, entry in enumerate(entries) if entry.get("module") == module)
        at = next(own, "")
    return replace(problem, pointer=at if at and document.position(at) else None)


def _awaited(activations: Mapping[str, Activation]) -> Iterator[str]:
    for module, found in activations.items():
        if found.awaits:
            yield f"{module} needs {', '.join(found.awaits)}, which is installed when a session opens."


def _context_warnings(bundle: Bundle, prompt: SystemPrompt) -> Iterator[str]:
    for reference in bundle.pending_context.values():
        yield f"The context {quoted(reference)} names a namespace that is not known; it is left out."
    for key in prompt.missing():
        yield f"The context file {quoted(key)} is not there or cannot be read; it is left out."
    for mention in prompt.lost():
        hint = f" The {quoted(mention[-1])} at its end is part of it." if mention[-1] in ".:" else ""
        yield f"The mention {quoted(mention)} leads to no file of a bundle; it stays as it is.{hint}"


def _fingerprint(
    document: Document, loaded: Loaded, activations: Mapping[str, Activation], fetched: tuple[Fetched, ...]
) -> str:
    """A hash of everything the result depends on: the text, every file read, every source and module's origin."""
    parts = {
        "document": hashlib.sha256(document.text.encode()).hexdigest(),
        "files": [[str(stamp.path), stamp.sha256] for stamp in loaded.files],
        "sources": [source.resolved for source in fetched],
        "modules": {name: [found.kind, str(found.path or "")] for name, found in sorted(activations.items())},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
