"""Runs the golden vectors against our own bundle code.

A vector says what to do (`case.json`, with files in `in/`) and what the real library answers (`expected.json`).
Where we decided otherwise, `deviations.toml` holds our own answer, which is compared instead; what no part of
the product does yet is listed in `not_yet_supported.toml`. How a case is laid out: `vectors/README.md`.
"""

import asyncio
import datetime
import json
import os
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amplifier_app_api.bundles.activation import activate
from amplifier_app_api.bundles.bundle import Bundle, replace_bundle, with_sources
from amplifier_app_api.bundles.compose import compose, deep_merge, merge_modules
from amplifier_app_api.bundles.document import parse_document, parse_yaml, split_front_matter
from amplifier_app_api.bundles.fetched import Fetch, Fetched, FetchOnce, Unresolved
from amplifier_app_api.bundles.includes import Loaded, load_source
from amplifier_app_api.bundles.locating import Sources
from amplifier_app_api.bundles.mount_plan import mount_plan
from amplifier_app_api.bundles.prepare import activate_further, prepare
from amplifier_app_api.bundles.shapes import problems_of_shape
from amplifier_app_api.bundles.uris import SourceUri
from amplifier_app_api.bundles.variables import VariableScope, expand
from amplifier_app_api.errors import AppError
from contract import vector_delegation as delegation
from contract import vector_prompts as prompts
from contract import vector_sources as remote

HERE = Path(__file__).parent
VECTORS = Path(os.environ.get("AMPLIFIER_VECTORS") or HERE / "vectors")

Answer = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One vector: `spec` is its `case.json`, placeholders as they stand there."""

    name: str
    folder: Path
    spec: dict[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        return self.spec.get("options", {})


def case_names() -> list[str]:
    """Every case of the suite, by folder name."""
    return sorted(found.parent.name for found in VECTORS.glob("*/case.json"))


def read_case(name: str) -> Case:
    return Case(name, VECTORS / name, json.loads((VECTORS / name / "case.json").read_text("utf-8")))


def deviations() -> dict[str, dict[str, Any]]:
    """Our own answers by case: `rule`, `reason`, and `expected` (whole) or `items` (by id), as JSON text."""
    return tomllib.loads((HERE / "deviations.toml").read_text("utf-8"))


def not_yet_supported() -> dict[str, str]:
    """Cases no part of the product can run yet, each with a word of why."""
    return tomllib.loads((HERE / "not_yet_supported.toml").read_text("utf-8"))


def library_answer(case: Case) -> Answer:
    """What the real library answers."""
    return json.loads((case.folder / "expected.json").read_text("utf-8"))


def expected_answer(case: Case) -> Answer:
    """What a case must answer: the real library's answer with our deviations put in."""
    expected = library_answer(case)
    deviation = deviations().get(case.name, {})
    if "expected" in deviation:
        return json.loads(deviation["expected"])
    if "items" in deviation:
        ours: dict[str, Answer] = json.loads(deviation["items"])
        unknown = set(ours) - {item["id"] for item in expected["result"]}
        assert not unknown, f"deviations.toml names items that {case.name} does not have: {unknown}"
        expected["result"] = [{"id": item["id"], **ours.get(item["id"], item)} for item in expected["result"]]
    return expected


def run_case(case: Case, home: Path) -> Answer:
    """Lay the case out below an empty folder and answer it, absolute paths put back to placeholders."""
    root = home / "root"
    if (case.folder / "in").exists():
        shutil.copytree(case.folder / "in", root)
    root.mkdir(exist_ok=True)
    for shared in case.options.get("shared", []):
        shutil.copytree(VECTORS / "_shared" / shared, root / shared, dirs_exist_ok=True)
    for name in case.options.get("mkdirs", []):
        (root / name).mkdir(parents=True)
    remote.make_archives(case.options.get("make_zip", {}), root)
    for file in root.rglob("*"):
        if file.is_file() and b"<root>" in (content := file.read_bytes()):
            file.write_bytes(content.replace(b"<root>", str(root).encode()))
    spec = _replaced(case.spec, "<root>", str(root))
    answer = KINDS[case.spec["kind"]](spec, root)
    return _replaced(_as_json(answer), str(root), "<root>")


def matches(answer: Any, expected: Any) -> bool:
    """Whether an answer agrees with an expected one: results exactly, refusals by family, extras ignored."""
    if isinstance(expected, dict) and expected.get("ok") is False:
        if answer.get("ok") is not False:
            return False
        if "codes" in expected:
            return answer["codes"] == expected["codes"]
        return set(answer["codes"]) <= _family(expected["error"])
    if isinstance(expected, dict):
        informative = {"info", "warnings", "sys_path_added", "progress"}
        informative |= {"bundle_package_paths", "mode_warning_count"}
        keys = expected.keys() - informative
        return isinstance(answer, dict) and keys == answer.keys() and all(matches(answer[k], expected[k]) for k in keys)
    if isinstance(expected, list):
        return (
            isinstance(answer, list)
            and len(answer) == len(expected)
            and all(matches(one, other) for one, other in zip(answer, expected, strict=True))
        )
    return type(answer) is type(expected) and answer == expected


def _family(error: dict[str, Any]) -> set[str]:
    """The codes we may answer where the real library raised this."""
    families = {
        "BundleNotFoundError": {"bundle_not_found", "source_not_allowed", "relative_reference", "module_fetch_failed"},
        "BundleLoadError": {"bundle_not_found", "invalid_document"},
        "BundleValidationError": {"invalid_document"},
        "BundleDependencyError": {"bundle_not_found", "invalid_document", "invalid_yaml", "source_not_allowed"},
        "ModuleActivationError": {"module_not_found", "source_not_allowed"},
    }
    # What escapes upstream as a raw Python error is a refusal of the document here.
    return families.get(error["class"], {"invalid_document", "invalid_yaml", "document_too_complex"})


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    if isinstance(value, dict):
        return {_replaced(key, old, new): _replaced(item, old, new) for key, item in value.items()}
    return value


def _as_json(value: Any) -> Any:
    """A value as the vectors write what JSON cannot hold."""
    if isinstance(value, datetime.date):
        return {"$date": value.isoformat()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _as_json(item) for key, item in value.items()}
        return {"$pairs": [[key, _as_json(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return value


def _refusal(error: AppError) -> Answer:
    return {"ok": False, "codes": [item.code for item in error.items]}


def _attempt(produce: Callable[[], Any]) -> Answer:
    try:
        return {"ok": True, "result": produce()}
    except AppError as error:
        return _refusal(error)
    except Unresolved as problem:
        return {"ok": False, "codes": [problem.code]}


def _each_item(produce: Callable[[dict[str, Any], Path], Any]) -> Callable[[dict[str, Any], Path], Answer]:
    """An operation on every item of a case on its own."""

    def run(spec: dict[str, Any], root: Path) -> Answer:
        items = [{"id": item["id"], **_attempt(lambda item=item: produce(item, root))} for item in spec["items"]]
        return {"ok": True, "result": items}

    return run


def _sources(spec: dict[str, Any], root: Path) -> Sources:
    options = spec.get("options", {})
    names = {**options.get("register", {}), **options.get("include_overrides", {})}
    served = options.get("local_git", {})
    fetch = FetchOnce(_served(served)) if served else None
    overrides = options.get("source_overrides", {})
    # The library says nothing about modules without a source; here they are installed.
    return Sources(names=names, roots=(root,), fetch=fetch, overrides=overrides, installed_modules=frozenset(overrides))


def _served(folders: dict[str, str]) -> Fetch:
    """A fetcher that has each repository, by its name, in a folder."""

    def fetch(text: str, pin: str | None) -> Fetched:
        uri = SourceUri.parse(text)
        folder = Path(folders[uri.path.rpartition("/")[2]])
        if not (path := folder / uri.subpath).exists():
            raise Unresolved("bundle_not_found", f"{text} does not exist")
        commit = "0" * 40
        return Fetched(uri=text, resolved=f"{text}@{commit}", path=path, source_root=folder, commit=commit)

    return fetch


def _shown(bundle: Bundle) -> Answer:
    return {
        "name": bundle.name,
        "version": bundle.version,
        "description": bundle.description,
        "instruction": bundle.instruction,
        "mount_plan": mount_plan(bundle),
        "agent_names": list(bundle.agents),
        "context": [{"key": key, "path": path, "exists": path.exists()} for key, path in bundle.context.items()],
        "context_unresolved": dict(bundle.pending_context),
    }


def _loaded(loaded: Loaded, produce: Callable[[Bundle], Any] = _shown) -> Answer:
    if loaded.problems:
        return {"ok": False, "codes": [problem.code for problem in loaded.problems]}
    return {"ok": True, "result": produce(loaded.bundle)}


def _load(spec: dict[str, Any], root: Path) -> Answer:
    if spec.get("options", {}).get("auto_include") is False:
        file = Path(spec["entry"])
        own = Bundle.from_data(parse_yaml(file.read_text("utf-8")), folder=file.parent)
        return {"ok": True, "result": _shown(own.resolve_context())}
    agents = spec.get("options", {}).get("agent_metadata", False)
    return _loaded(load_source(spec["entry"], _sources(spec, root), folder=root, agents=agents))


def _load_sequence(spec: dict[str, Any], root: Path) -> Answer:
    sources = _sources(spec, root)
    return {
        "ok": True,
        "result": [_loaded(load_source(step["entry"], sources, folder=root)) for step in spec["entries"]],
    }


def _source(spec: dict[str, Any], root: Path) -> Answer:
    base = root / spec["base_path"]
    return _each_item(lambda item, root: remote.resolved(item, base, root))(spec, root)


def _over_http(spec: dict[str, Any], root: Path) -> Answer:
    return remote.over_http(spec, root, lambda text, sources: _loaded(load_source(text, sources)))


def _state(spec: dict[str, Any], root: Path) -> Answer:
    """What loading leaves behind: names that a later load knows, and files."""
    sources = _sources(spec, root)
    loaded = [load_source(entry, sources, folder=root) for entry in spec["entries"]]
    names = {name for result in loaded for name in (result.bundle.name, *result.bundle.namespaces)}
    known = [name for name in sorted(names) if not load_source(name, sources, folder=root).problems]
    state = root.parent / ".amplifier" / "registry.json"
    return {"ok": True, "result": {"registered": known, "file": state.read_text("utf-8") if state.exists() else None}}


def _built(item: dict[str, Any]) -> Bundle:
    folder = Path(item["base_path"]) if "base_path" in item else None
    bundle = Bundle.from_data(item["data"], folder=folder, instruction=item.get("instruction"))
    namespaces = {name: Path(path) for name, path in item.get("namespaces", {}).items()}
    return replace_bundle(bundle, namespaces={**bundle.namespaces, **namespaces})


def _from_data(item: dict[str, Any], root: Path) -> Answer:
    return _shown(_built(item).resolve_context())


def _composed(item: dict[str, Any], root: Path) -> Answer:
    return _shown(compose(*(_built(part) for part in item["bundles"])).resolve_context())


def _deep_merged(item: dict[str, Any], root: Path) -> Any:
    return deep_merge(item["parent"], item["child"])


def _modules_merged(item: dict[str, Any], root: Path) -> Any:
    # A bundle's lists are checked before anything is merged; so are these.
    for entries in (item["parent"], item["child"]):
        Bundle.from_data({"tools": entries})
    return merge_modules(item["parent"], item["child"])


def _front_matter(item: dict[str, Any], root: Path) -> Answer:
    parts = split_front_matter(item["text"])
    if parts is None:
        return {"meta": {}, "body": item["text"].lstrip("\ufeff")}
    return {"meta": parse_yaml(parts.yaml), "body": parts.body}


def _uri(item: dict[str, Any], root: Path) -> Answer:
    uri = SourceUri.parse(item["uri"])
    parts = {name: getattr(uri, name) for name in ("scheme", "host", "path", "ref", "subpath")}
    kinds = {name: getattr(uri, name) for name in ("is_git", "is_file", "is_http", "is_zip")}
    return {**parts, **kinds, "is_package": uri.is_name}


def _expanded(item: dict[str, Any], root: Path) -> Any:
    environment = item.get("env", {})
    plan = {"tools": [{"module": "tool", "config": item["value"]}]}
    return expand(plan, VariableScope({}, environment, tuple(environment)))["tools"][0]["config"]


def _system_prompt(spec: dict[str, Any], root: Path) -> Answer:
    def prompt_of(bundle: Bundle) -> Answer:
        return prompts.prompts(bundle, spec, root)

    return _loaded(load_source(spec["entry"], _sources(spec, root), folder=root), prompt_of)


def _prepared(spec: dict[str, Any], root: Path) -> Answer:
    sources = _sources(spec, root)
    # The vectors prepare what was loaded without reading agents; `prepare` of the product reads them always.
    loaded = load_source(spec["entry"], sources, folder=root, agents=False)
    if loaded.problems:
        return _loaded(loaded)
    active, problems = activate(with_sources(loaded.bundle, sources.overrides), sources)
    if problems:
        return {"ok": True, "result": {"ok": False, "codes": [problem.item.code for problem in problems]}}
    paths = {name: found.path for name, found in active.items() if found.path}
    result = {"ok": True, "resolver_paths": paths, "mount_plan": mount_plan(loaded.bundle)}
    if "lazy" in spec.get("options", {}):
        result["lazy"] = asyncio.run(_activated_later(spec, sources))
    return {"ok": True, "result": result}


async def _activated_later(spec: dict[str, Any], sources: Sources) -> list[Answer]:
    document = parse_document(f"bundle: {{name: entry}}\nincludes: ['{spec['entry']}']\n")
    prepared = await prepare(document, sources=sources)
    active = dict(prepared.activations)
    answers: list[Answer] = []
    for wanted in spec["options"]["lazy"]:
        module = wanted["module"]
        try:
            now = replace(prepared, activations=active)
            active[module] = await activate_further(now, module, wanted.get("source"), sources)
        except Unresolved:
            answers.append({"module": module, "error": "ModuleNotFoundError"})
        else:
            answers.append({"module": module, "path": active[module].path})
    return answers


def _validated(spec: dict[str, Any], root: Path) -> Answer:
    """The storable bar: the pointers of everything that is wrong."""
    return {
        "ok": True,
        "result": [
            {"id": item["id"], "problems": [found.pointer for found in problems_of_shape(item["data"], to_store=True)]}
            for item in spec["items"]
        ],
    }


KINDS: dict[str, Callable[[dict[str, Any], Path], Answer]] = {
    "load": _load,
    "load-sequence": _load_sequence,
    "registry-state": _state,
    "source-resolve": _source,
    "cache-path": _each_item(remote.clone_url),
    "http-source": _over_http,
    "from-dict": _each_item(_from_data),
    "compose": _each_item(_composed),
    "deep-merge": _each_item(_deep_merged),
    "module-list-merge": _each_item(_modules_merged),
    "frontmatter": _each_item(_front_matter),
    "uri-parse": _each_item(_uri),
    "app-env-expand": _each_item(_expanded),
    "agent-file": _each_item(prompts.agent_file),
    "context-path": _each_item(prompts.paths_of_names),
    "mention-parse": _each_item(prompts.mentions),
    "mention-resolve": prompts.resolved_mentions,
    "mention-load": prompts.loaded_mentions,
    "system-prompt": _system_prompt,
    "app-spawn-merge": _each_item(delegation.merged),
    "app-spawn-aliasing": _each_item(delegation.aliased),
    "app-inheritance-filter": _each_item(delegation.with_inheritance),
    "provider-preferences": _each_item(delegation.with_preferences),
    "sub-session-id": _each_item(delegation.session_id),
    "sum-cost": _each_item(delegation.cost),
    "inject-events": _each_item(delegation.with_events),
    "prepare": _prepared,
    "validate": _validated,
}
