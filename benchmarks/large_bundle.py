"""A bundle of many parts on disk: 40 included bundles in three layers, which bring 60 modules from folders."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

INCLUDES = 40
MODULES = 60
_TOP = 10
_PER_TOP = 3

_MODULE = '''\
"""A tool that does nothing."""

from amplifier_core import ToolResult


class Tool:
    name = "{tool}"
    description = "Does nothing."
    input_schema = {{"type": "object", "properties": {{}}}}

    async def execute(self, input):
        return ToolResult(success=True, output="")


async def mount(coordinator, config=None):
    await coordinator.mount("tools", Tool(), name="{tool}")
'''

_PROJECT = """\
[project]
name = "amplifier-module-{module}"
version = "1.0.0"
dependencies = ["amplifier-core"]

[project.entry-points."amplifier.modules"]
{module} = "{package}:mount"
"""


def write_bundles(folder: Path) -> None:
    """The 40 bundles and 60 modules below `folder`: ten on top, each of which includes three more."""
    for number in range(MODULES):
        write_module(folder / "modules", f"tool-part-{number}")
    (folder / "bundles").mkdir()
    for number in range(INCLUDES):
        below = range(_TOP + _PER_TOP * number, _TOP + _PER_TOP * (number + 1)) if number < _TOP else ()
        tools = [entry for entry in range(MODULES) if entry % INCLUDES == number]
        (folder / "bundles" / f"b{number}.yaml").write_text(_bundle(number, below, tools), "utf-8")


def _bundle(number: int, below: Iterable[int], tools: Iterable[int]) -> str:
    lines = ["bundle:", f"  name: b{number}", "tools:"]
    for tool in tools:
        module = f"tool-part-{tool}"
        lines += [f"  - module: {module}", f"    source: ../modules/{module}", f"    config: {{level: {number}}}"]
    included = [f"  - bundle: ./b{other}.yaml" for other in below]
    return "\n".join([*lines, *(["includes:", *included] if included else [])]) + "\n"


def write_module(folder: Path, module: str) -> None:
    """A module of the usual layout: a package with `mount` and a `pyproject.toml`."""
    package = f"amplifier_module_{module.replace('-', '_')}"
    (folder / module / package).mkdir(parents=True)
    (folder / module / package / "__init__.py").write_text(_MODULE.format(tool=module.replace("-", "_")), "utf-8")
    (folder / module / "pyproject.toml").write_text(_PROJECT.format(module=module, package=package), "utf-8")


def install_module(site: Path, module: str) -> None:
    """The same as a distribution on Python's path, laid out as an installer does."""
    write_module(site / "origin", module)
    package = f"amplifier_module_{module.replace('-', '_')}"
    (site / "origin" / module / package).rename(site / package)
    info = site / f"{package}-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: amplifier-module-{module}\nVersion: 1.0.0\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[amplifier.modules]\n{module} = {package}:mount\n", "utf-8")


def commit(folder: Path) -> None:
    """Make a git repository of a folder, with one commit on `main`."""
    git = ["git", "-C", str(folder), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for command in (["init", "--quiet", "--initial-branch=main"], ["add", "--all"], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *command], check=True, timeout=60)


def document(name: str, includes: Iterable[str]) -> str:
    """A stored document that includes these and can run; another `name` makes another text."""
    lines = ["bundle:", f"  name: {name}", "includes:", *(f"  - bundle: {include}" for include in includes)]
    return "\n".join([*lines, *_RUNNABLE]) + "\n"


def with_tools(name: str, *tools: str) -> str:
    """A document without includes: what is built in, and these tools, each in YAML."""
    return "\n".join(["bundle:", f"  name: {name}", *_RUNNABLE, f"tools: [{', '.join(tools)}]"]) + "\n"


def from_folder(folder: Path) -> list[str]:
    """The includes on top, from a folder."""
    return [str(folder / "bundles" / f"b{number}.yaml") for number in range(_TOP)]


def from_git(repository: Path) -> list[str]:
    """The same from a repository."""
    return [f"git+file://{repository}@main#subdirectory=bundles/b{number}.yaml" for number in range(_TOP)]


_RUNNABLE = (
    "session: {orchestrator: loop-streaming, context: context-simple}",
    "providers: [{module: provider-scripted}]",
)
