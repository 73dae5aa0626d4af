"""Plans and validations for people: tables and a tree, in colour on a terminal."""

import sys
from collections.abc import Iterable
from typing import Any

import orjson
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from amplifier_app_api.bundles.values import is_list, is_mapping, pointer
from amplifier_app_api.models.plan import Origin, Plan, PlannedInclude, PlannedModule, PlanProblem, Validation

_WIDTH_OF_A_FILE = 160
_COLOURS = {"missing": "red", "default": "yellow", "session": "green", "environment": "green"}


def show_plan(plan: Plan, label: str) -> None:
    """Print a plan: what would run first, then what stands in the way."""
    console = _console()
    if plan.includes:
        tree = Tree(_plain("Includes", "bold"))
        _grow(tree, plan.includes)
        console.print(tree, "")
    _print_table(
        console,
        "Modules",
        ("module", "kind", "origin", "written in"),
        (
            (_named(module), module.kind, _origin(module), _where(plan, module.pointer, label))
            for module in plan.modules
        ),
    )
    _print_table(
        console,
        "Sources",
        ("source", "resolved"),
        ((found.uri, found.commit or found.resolved) for found in plan.sources),
    )
    _print_table(
        console,
        "Variables",
        ("variable", "place", "from"),
        ((used.name, used.pointer, _plain(used.origin, _COLOURS[used.origin])) for used in plan.variables),
    )
    _print_table(
        console,
        "Mount plan",
        ("place", "value", "written in"),
        ((at, value, _where(plan, at, label)) for at, value in _values(plan.mount_plan)),
    )
    _print_findings(console, plan.problems, plan.warnings, label)
    verdict = _plain("can run", "bold green") if plan.runnable else _plain("cannot run", "bold red")
    console.print(_plain(f"{label}: "), verdict, sep="", soft_wrap=True)


def show_validation(found: Validation, label: str) -> None:
    """Print what is wrong, one line each, then the verdict."""
    console = _console()
    _print_findings(console, found.problems, found.warnings, label)
    verdict = _plain("valid", "bold green") if found.valid else _plain("not valid", "bold red")
    bars = f" (storable: {_yes(found.storable)}, runnable: {_yes(found.runnable)})"
    console.print(_plain(f"{label}: "), verdict, _plain(bars), sep="", soft_wrap=True)


def _console() -> Console:
    # A file or a pipe has no width of its own, and a table that is read there may be wide.
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)


def _plain(text: str, style: str = "") -> Text:
    """A text of the document as it may be printed: what a terminal would obey is spelled out."""
    printable = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return Text(printable, style)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _print_table(console: Console, title: str, columns: Iterable[str], rows: Iterable[tuple[str | Text, ...]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold", header_style="dim")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else _plain(cell) for cell in row))
    if table.row_count:
        console.print(Group(table, ""))


def _grow(tree: Tree, includes: Iterable[PlannedInclude]) -> None:
    for node in includes:
        name = f" ({node.name})" if node.name and node.name != node.include else ""
        again = ", as above" if node.repeated else ""
        _grow(tree.add(_plain(f"{node.include}{name}{again}")), node.includes)


def _named(module: PlannedModule) -> str:
    return f"{module.id} (agent {module.agent})" if module.agent else module.id


def _origin(module: PlannedModule) -> Text:
    if module.origin == "missing":
        return _plain("missing", "red")
    at = f" at {module.commit[:12]}" if module.commit else ""
    return _plain(f"{module.source}{at}" if module.origin == "source" and module.source else module.origin)


def _where(plan: Plan, at: str, label: str) -> str:
    """The document and line of a value, or of the module that stands there."""
    origin = plan.provenance.get(at) or plan.provenance.get(f"{at}/module")
    return _place(origin, label) if origin else ""


def _place(origin: Origin, label: str) -> str:
    way = " → ".join(origin.includes) or label
    if origin.document.startswith("agents/"):
        way = f"{way} → {origin.document}" if origin.includes else origin.document
    return f"{way}:{origin.line}" if origin.line else way


def _values(value: Any, *at: str | int) -> Iterable[tuple[str, str]]:
    if is_mapping(value) and value:
        for key, item in value.items():
            yield from _values(item, *at, key)
    elif is_list(value) and value:
        for index, item in enumerate(value):
            yield from _values(item, *at, index)
    elif at:
        yield pointer(*at), value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _print_findings(console: Console, problems: Iterable[PlanProblem], warnings: Iterable[str], label: str) -> None:
    """One line each, as compilers write them."""
    for problem in problems:
        line = "".join(f":{number}" for number in (problem.line, problem.column) if number)
        # A problem of an include names the way to it in its sentence.
        origin = f" (in {_place(problem.origin, label)})" if problem.origin and problem.origin.line else ""
        kind = _plain("problem", "red")
        console.print(
            _plain(f"{label}{line}: "),
            kind,
            _plain(f": {problem.detail}{origin} [{problem.code}]"),
            sep="",
            soft_wrap=True,
        )
    for warning in warnings:
        console.print(_plain(f"{label}: "), _plain("warning", "yellow"), _plain(f": {warning}"), sep="", soft_wrap=True)
