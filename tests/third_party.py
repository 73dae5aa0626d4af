"""Modules written the upstream way, and the ways they come to a server: a folder, a git source, a distribution."""

import base64
import hashlib
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amplifier_app_api.bundles import Bundle, Sources
from amplifier_app_api.bundles.activation import ModuleProblem, activate
from amplifier_app_api.bundles.dependencies import LIBRARIES_MARK, Installer
from amplifier_app_api.bundles.fetched import Fetched, Unresolved
from amplifier_app_api.bundles.mount_plan import kernel_plan
from amplifier_app_api.bundles.prompt import BuiltPrompt
from amplifier_app_api.modules import BUILTIN_MODULES
from amplifier_app_api.runtime.kernel.loader import ModuleTable
from amplifier_app_api.runtime.kernel.module_sources import SourceFinder
from amplifier_app_api.runtime.kernel.session import KernelSession, Opening
from runtime_bundles import MODULES

SET = {
    "orchestrator": "loop-metronome",
    "context": "context-notebook",
    "provider": "provider-lantern",
    "tool": "tool-compass",
    "hook": "hooks-ledger",
}


@dataclass
class Silent:
    """Notices nobody reads."""

    told: list[str] = field(default_factory=list)

    def notice(self, level: str, text: str, source: str) -> None:
        self.told.append(text)


class NotActive(Exception):
    """The problems of modules that cannot be had."""

    def __init__(self, problems: list[ModuleProblem]) -> None:
        super().__init__("; ".join(problem.item.detail for problem in problems))
        self.codes = [problem.item.code for problem in problems]


def package_of(module: str) -> str:
    return f"amplifier_module_{module.replace('-', '_')}"


def bundle_of(sources: Mapping[str, str | None], **config: dict[str, Any]) -> Bundle:
    """A bundle of the whole set, each module from its source; `config` is by kind."""

    def entry(kind: str) -> dict[str, Any]:
        source = sources[SET[kind]]
        given = {"source": source} if source else {}
        return {"module": SET[kind], **given, **({"config": config[kind]} if kind in config else {})}

    return Bundle.from_data(
        {
            "bundle": {"name": "night-walk"},
            "session": {"orchestrator": entry("orchestrator"), "context": entry("context")},
            "providers": [entry("provider")],
            "tools": [entry("tool")],
            "hooks": [entry("hook")],
        },
        instruction="Walk on.",
    )


def with_tools(*tools: dict[str, Any]) -> Bundle:
    """A bundle on built-in modules with these tools."""
    return Bundle.from_data(
        {
            "session": {"orchestrator": "loop-basic", "context": "context-simple"},
            "providers": [{"module": "provider-scripted"}],
            "tools": list(tools),
        }
    )


async def open_bundle(
    bundle: Bundle, sources: Sources, table: ModuleTable, *, installer: Installer | None = None, session_id: str = "s1"
) -> KernelSession:
    """Activate a bundle and mount it, as an opening of a session does."""
    active, problems = activate(bundle, sources, installer)
    if problems:
        raise NotActive(problems)

    async def prompt() -> BuiltPrompt:
        return BuiltPrompt(bundle.instruction)

    opening = Opening(
        session_id=session_id,
        plan=kernel_plan(bundle),
        activations=active,
        working_dir="/",
        prompt=prompt,
        file_limits={"readable": [], "writable": []},
    )
    return await KernelSession.open(opening, table, Silent())


def server_sources(table: ModuleTable, *roots: Path, fetch: Any = None) -> Sources:
    return Sources(
        roots=roots, builtin_modules=frozenset(BUILTIN_MODULES), installed_modules=table.installed(), fetch=fetch
    )


def forget_modules(*below: Path) -> None:
    """Make this a process that has not imported anything of these folders, as a new server is."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and any(Path(file).is_relative_to(folder) for folder in below):
            del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, SourceFinder)]
    sys.path[:] = [folder for folder in sys.path if not Path(folder, LIBRARIES_MARK).exists()]


def checkouts(folder: Path, commits: Mapping[str, tuple[Path, str]]) -> Callable[[str, str | None], Fetched]:
    """A `fetch` that serves git addresses from folders: address to folder and commit."""

    def fetch(uri: str, pin: str | None) -> Fetched:
        if uri not in commits:
            raise Unresolved("source_not_allowed", f"{uri!r} is not served here.")
        origin, commit = commits[uri]
        place = folder / commit
        if not place.exists():
            shutil.copytree(origin, place)
        address = uri.partition("@")[0]
        return Fetched(uri=uri, resolved=f"{address}@{commit}", path=place, source_root=place, commit=commit)

    return fetch


def install(module: str, site: Path) -> None:
    """Lay a module out in a folder of Python's path as an installer of its wheel does."""
    project = tomllib.loads((MODULES / module / "pyproject.toml").read_text("utf-8"))["project"]
    shutil.copytree(MODULES / module / package_of(module), site / package_of(module))
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(_metadata(project["name"], project["version"]), "utf-8")
    points = project["entry-points"]["amplifier.modules"]
    lines = [f"{name} = {value}\n" for name, value in points.items()]
    (info / "entry_points.txt").write_text("[amplifier.modules]\n" + "".join(lines), "utf-8")


def wheel(folder: Path, name: str, version: str, code: str, requires: tuple[str, ...] = ()) -> Path:
    """A wheel of one file, made by hand so that no test needs an index."""
    package = name.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    files = {
        f"{package}.py": code,
        f"{info}/METADATA": _metadata(name, version, requires),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return target


def _metadata(name: str, version: str, requires: tuple[str, ...] = ()) -> str:
    lines = (
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    )
    return "\n".join(lines) + "\n"


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
