"""A file's document with its relative references made absolute, so that it can be prepared like a stored one.

The text stays as it is: problems point at the lines the writer sees.
"""

import os.path
from dataclasses import replace
from pathlib import Path
from typing import Any

from .bundle import absolute_source
from .document import Document
from .shapes import MODULE_LISTS, include_text
from .uris import SourceUri
from .values import is_list, is_mapping, is_text


def anchored(document: Document, folder: Path) -> Document:
    """The document as it means when it lies in this folder. Agents keep the files they have."""
    data = dict(document.data)
    head: Any = data.get("bundle") or {}
    name = head.get("name")
    includes: list[Any] = data.get("includes") or []
    data["includes"] = [_include(entry, folder) for entry in includes]
    if is_mapping(data.get("context")):
        data["context"] = _context(data["context"], folder, name)
    data = _sections(data, folder)
    if is_mapping(data.get("agents")):
        data["agents"] = {
            key: _sections(value, folder) if is_mapping(value) else value for key, value in data["agents"].items()
        }
    return replace(document, data=data)


def _include(entry: Any, folder: Path) -> Any:
    text = include_text(entry)
    if text is None or not SourceUri.parse(text).is_relative_path:
        return entry
    uri = SourceUri.parse(text)
    path = os.path.normpath(folder / (uri.path if uri.is_file else text))
    return path if not uri.subpath or not uri.is_file else f"file://{path}#subdirectory={uri.subpath}"


def _context(section: dict[str, Any], folder: Path, name: Any) -> dict[str, Any]:
    """Files by name, each with its path; references into other bundles stay in `include`."""
    entries: Any = section.get("include") or []
    own = f"{name}:"
    result: dict[str, Any] = {"include": []}
    for text in entries:
        if not is_text(text) or (":" in text and not text.startswith(own)):
            result["include"].append(text)
        else:
            result[text] = os.path.normpath(folder / text.removeprefix(own).lstrip("/"))
    for key, path in section.items():
        if key != "include":
            result[key] = os.path.normpath(folder / path) if is_text(path) else path
    return result


def _sections(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    result = dict(data)
    if is_mapping(result.get("session")):
        session = dict(result["session"])
        for role in ("orchestrator", "context"):
            if role in session:
                session[role] = _entry(session[role], folder)
            if f"{role}_source" in session:
                session[f"{role}_source"] = absolute_source(session[f"{role}_source"], folder)
        result["session"] = session
    for section in MODULE_LISTS:
        if is_list(result.get(section)):
            result[section] = [_entry(entry, folder) for entry in result[section]]
    return result


def _entry(entry: Any, folder: Path) -> Any:
    if not is_mapping(entry) or "source" not in entry:
        return entry
    return {**entry, "source": absolute_source(entry["source"], folder)}
