"""A bundle in a file, planned with the settings of this process: no server and no database.

Relative references start from the folder of the file, which a stored document does not have; that such a bundle
cannot be stored as it stands is said as a warning.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import typer

from amplifier_app_api.bundles import Document, PreparedBundle, RelativeReference, parse_document, prepare
from amplifier_app_api.bundles.anchored import anchored
from amplifier_app_api.bundles.dependencies import Announcer
from amplifier_app_api.bundles.validation import check_storable_document
from amplifier_app_api.core.planner import Planner, unread_plan, unread_validation
from amplifier_app_api.errors import AppError, Invalid
from amplifier_app_api.models.plan import Plan, Validation
from amplifier_app_api.runtime.opening import SessionOpener
from amplifier_app_api.runtime.options import RuntimeOptions
from amplifier_app_api.settings import load_settings

STDIN = "-"


def unusable(sentence: str) -> NoReturn:
    """Say why there is nothing to look at, and end with 2."""
    typer.echo(f"amplifier-api: {sentence}", err=True)
    raise typer.Exit(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """The text of a bundle and what looks at it. `folder` is where its relative references start."""

    label: str
    text: str
    folder: Path | None
    planner: Planner
    variables: dict[str, str]

    def plan(self) -> Plan:
        """What a session would run."""
        try:
            document, notes = self._document()
            found = asyncio.run(self.planner.plan_document(document, self.variables))
        except Invalid as refusal:
            return unread_plan(refusal)
        except AppError as problem:
            unusable(problem.detail)
        return found.model_copy(update={"storable": not notes, "warnings": [*found.warnings, *notes]})

    def validate(self) -> Validation:
        """What is wrong."""
        try:
            document, notes = self._document()
            found = asyncio.run(self.planner.validate_document(document, self.variables))
        except Invalid as refusal:
            return unread_validation(refusal)
        except AppError as problem:
            unusable(problem.detail)
        return found.model_copy(update={"storable": not notes, "warnings": [*found.warnings, *notes]})

    def _document(self) -> tuple[Document, list[str]]:
        """The document as it means in its folder, and why it cannot be stored when that is all that is wrong."""
        document = parse_document(self.text, self.planner.sources.limits)
        if self.folder is None:
            check_storable_document(document)
            return document, []
        try:
            check_storable_document(document)
        except Invalid as refusal:
            notes = [f"{item.detail} (line {item.line})" for item in refusal.items]
            if any(item.code != RelativeReference.code for item in refusal.items):
                raise
        else:
            notes = []
        return anchored(document, self.folder), notes


def open_bundle(file: str, roots: Sequence[Path], given: Sequence[str]) -> BundleFile:
    """Read a file, or standard input for `-`. Ends the command with 2 when there is nothing to read."""
    variables = _variables(given)
    try:
        options = RuntimeOptions.of(load_settings())
    except AppError as problem:
        unusable(problem.detail)
    missing = next((root for root in roots if not root.is_dir()), None)
    if missing is not None:
        unusable(f"{missing} is not a folder")
    options = replace(options, source_roots=(*options.source_roots, *(root.absolute() for root in roots)))
    text = _text(file, options.limits.max_bytes)
    path = None if file == STDIN else Path(file).absolute()
    return BundleFile(
        label="stdin" if path is None else file,
        text=text,
        folder=path.parent if path else None,
        planner=_planner(options),
        variables=variables,
    )


def _planner(options: RuntimeOptions) -> Planner:
    try:
        sources = SessionOpener(options).sources({})
    except ValueError as problem:
        unusable(f"AMPLIFIER_SOURCE_ALLOW: {problem}")

    installer = Announcer() if options.install_dependencies else None

    async def prepared(document: Document) -> PreparedBundle:
        return await prepare(document, sources=sources, installer=installer)

    return Planner(
        prepare=prepared, sources=sources, environment=options.environment, env_allow=tuple(options.env_allow)
    )


def _text(file: str, limit: int) -> str:
    """The text as it is, one byte more than is allowed at most: what is too large is a problem of the document."""
    try:
        if file == STDIN:
            content = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(limit + 1)
        return content.decode()
    except OSError as problem:
        unusable(f"{file} cannot be read: {problem.strerror}")
    except UnicodeDecodeError:
        unusable(f"{file} cannot be read: it is not UTF-8")


def _variables(given: Sequence[str]) -> dict[str, str]:
    pairs = [entry.partition("=") for entry in given]
    if not all(name and equals for name, equals, _ in pairs):
        # Without the text: the value of a variable may be a secret.
        unusable("--var takes NAME=VALUE")
    return {name: value for name, _, value in pairs}
