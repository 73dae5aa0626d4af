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
from .bundle import Bundle
from .document import Document
from .folders import AllowedFolders, FileStamp
from .includes import Loaded, load_document
from .locating import Sources
from .mount_plan import kernel_plan
from .prompt import SystemPrompt
from .shapes import MODULE_LISTS
from .validation import NotRunnable, check_storable_document, located, problems_of_values
from .values import is_list, is_mapping, is_text, pointer, pointer_parts, quoted
from .variables import VariableUse, find_variables

__all__ = ["PreparedBundle", "Sources", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBundle:
    """A composed document with its mount plan. Shared by every session opened from it: change nothing in place.

    `activations` are by module id. `module_problems` are those of `problems` that are about one module. The
    pointers of `variables` are into the mount plan, those of `problems` into the document as far as a problem
    has a place there.
    """

    bundle: Bundle
    mount_plan: dict[str, Any]
    activations: Mapping[str, Activation]
    problems: tuple[ErrorItem, ...]
    module_problems: tuple[ModuleProblem, ...]
    warnings: tuple[str, ...]
    variables: tuple[VariableUse, ...]
    fingerprint: str
    files: tuple[FileStamp, ...] = field(repr=False)
    prompt: SystemPrompt = field(repr=False)

    def plan(self) -> dict[str, Any]:
        """A mount plan of the caller's own: the kernel keeps and changes the object it is given."""
        return copy.deepcopy(self.mount_plan)

    def is_current(self) -> bool:
        """Whether preparing again would find the same files. A few `stat` calls.

        Never with problems: what was missing may be there by now.
        """
        folders = (found.path for found in self.activations.values() if found.path)
        return (
            not self.problems
            and all(stamp.is_current() for stamp in self.files)
            and all(folder.is_dir() for folder in folders)
        )

    async def system_prompt(self) -> str | None:
        """The system prompt with the context files as they are now."""
        return await self.prompt.build()

    def require_runnable(self) -> None:
        """Raise `NotRunnable` with every problem when there is one."""
        if self.problems:
            raise NotRunnable(self.problems)


async def prepare(document: Document, *, sources: Sources) -> PreparedBundle:
    """Prepare a stored document. A document below the storable bar is refused as `check_storable` does."""
    return await asyncio.to_thread(_prepare, document, sources)


def _prepare(document: Document, sources: Sources) -> PreparedBundle:
    check_storable_document(document)
    loaded = load_document(document, sources)
    bundle = loaded.bundle
    plan = kernel_plan(bundle)
    activations, problems_of_modules = activate(bundle, sources)
    folders = AllowedFolders.of(*loaded.homes, *sources.roots)
    prompt = SystemPrompt(bundle.instruction, bundle.context, folders, sources.limits.max_bytes)
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
        warnings=(*loaded.warnings, *_context_warnings(bundle, prompt)),
        variables=find_variables(plan),
        fingerprint=_fingerprint(document, loaded, activations),
        files=tuple(stamp for stamp in loaded.files if not stamp.path.is_relative_to(BUILTIN_FOLDER)),
        prompt=prompt,
    )


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
    at = pointer(*parts[:2])
    if len(parts) > 1 and parts[0] in MODULE_LISTS:
        module = plan[parts[0]][int(parts[1])].get("module")
        entries: Any = document.data.get(parts[0]) or []
        own = (pointer(parts[0], index) for index, entry in enumerate(entries) if entry.get("module") == module)
        at = next(own, "")
    return replace(problem, pointer=at if at and document.position(at) else None)


def _context_warnings(bundle: Bundle, prompt: SystemPrompt) -> Iterator[str]:
    for reference in bundle.pending_context.values():
        yield f"The context {quoted(reference)} names a namespace that is not known; it is left out."
    for key in prompt.missing():
        yield f"The context file {quoted(key)} is not there or cannot be read; it is left out."


def _fingerprint(document: Document, loaded: Loaded, activations: Mapping[str, Activation]) -> str:
    """A hash of everything the result depends on: the text, every file read, every module's origin."""
    parts = {
        "document": hashlib.sha256(document.text.encode()).hexdigest(),
        "files": [[str(stamp.path), stamp.sha256] for stamp in loaded.files],
        "modules": {name: [found.kind, str(found.path or "")] for name, found in sorted(activations.items())},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
