"""The operations of the vectors on mentions, prompts and the files of agents."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amplifier_app_api.bundles.agents import agent_of, agent_path
from amplifier_app_api.bundles.bundle import Bundle, context_path
from amplifier_app_api.bundles.document import parse_markdown
from amplifier_app_api.bundles.folders import AllowedFolders
from amplifier_app_api.bundles.mentions import MentionScope, expand_mentions, mentions_in
from amplifier_app_api.bundles.prompt import SystemPrompt

Answer = dict[str, Any]


def agent_file(item: dict[str, Any], root: Path) -> Answer:
    text = (root / item["file"]).read_text("utf-8")
    return agent_of(parse_markdown(text), "fallback-name")


def paths_of_names(item: dict[str, Any], root: Path) -> Answer:
    folder = Path("/b")
    return {"context": context_path(folder, item["name"]), "agent": agent_path(folder, item["name"])}


def mentions(item: dict[str, Any], root: Path) -> list[str]:
    return list(mentions_in(item["text"]))


def _scope(spec: dict[str, Any], root: Path) -> MentionScope:
    folders: dict[str, Path] = {}
    context: dict[str, Path] = {}
    for name, namespace in spec.get("namespaces", {}).items():
        known = namespace if isinstance(namespace, dict) else {"base_path": namespace}
        if "base_path" in known:
            folders[name] = Path(known["base_path"])
        context |= {f"{name}:{key}": Path(path) for key, path in known.get("context", {}).items()}
    return MentionScope(
        folders=AllowedFolders.of(root),
        namespaces=folders,
        context=context,
        working_dir=Path(spec["base_path"]),
    )


def resolved_mentions(spec: dict[str, Any], root: Path) -> Answer:
    scope = _scope(spec, root)
    items = [{**item, "path": scope.resolve(item["mention"])} for item in spec["items"]]
    return {"ok": True, "result": items}


def loaded_mentions(spec: dict[str, Any], root: Path) -> Answer:
    expansion = expand_mentions(spec["text"], _scope(spec, root))
    results = [
        {
            "mention": found.mention,
            "path": found.path,
            "found": found.failure is None,
            "is_directory": found.is_directory,
            "failure": found.failure,
            "has_content": found.failure is None,
        }
        for found in expansion.mentioned
    ]
    files = [{"paths": list(block.names), "content": block.content} for block in expansion.blocks]
    return {"ok": True, "result": {"results": results, "files": files, "expanded": expansion.text}}


def prompts(bundle: Bundle, spec: dict[str, Any], root: Path) -> Answer:
    """Two prompts, files edited in between, and what a session would tell about them."""
    options = spec.get("options", {})
    prompt = SystemPrompt.of(bundle, AllowedFolders.of(root), 1 << 20)
    working_dir = Path(options["session_cwd"]) if "session_cwd" in options else None
    first = prompt.build_now(working_dir)
    for name, text in options.get("edit_between_calls", {}).items():
        (root / name).write_text(text, "utf-8")
    second = prompt.build_now(working_dir)
    seen: set[str] = set()
    told = [built.event(seen, turn=1) for built in (first, second)]
    return {
        "prompt": first.text or "",
        "second_prompt": "<same>" if second == first else second.text,
        "events": [_event(event) for event in told if event],
    }


def _event(facts: dict[str, Any]) -> Answer:
    return {
        "event": "mentions:resolved",
        "resolutions": list(_resolutions(facts["resolutions"])),
        "failed": facts["failed"],
        "deduplicated_count": facts["deduplicated_count"],
    }


def _resolutions(resolutions: list[dict[str, Any]]) -> Iterator[Answer]:
    for found in resolutions:
        shown = {key: found[key] for key in ("mention", "source_type", "is_new")}
        yield {**shown, "path": found["resolved_path"]}
