"""Modules that were not written for this server, unmodified, by every way they can come."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from amplifier_app_api.bundles import Sources
from amplifier_app_api.bundles.dependencies import InstallFailed
from amplifier_app_api.bundles.installer import UvInstaller
from amplifier_app_api.bundles.sources import SourceFetcher, SourcePolicy
from amplifier_app_api.runtime.kernel.loader import ModuleTable
from amplifier_app_api.runtime.kernel.session import KernelSession, MountFailed
from runtime_bundles import MODULES, from_folder
from third_party import (
    SET,
    NotActive,
    bundle_of,
    checkouts,
    forget_modules,
    install,
    open_bundle,
    package_of,
    server_sources,
    wheel,
    with_tools,
)

FROM_FOLDERS = {module: str(MODULES / module) for module in SET.values()}


@pytest.fixture
def table(tmp_path: Path) -> Iterator[ModuleTable]:
    """The table of a process that has loaded nothing of these folders yet."""
    forget_modules(MODULES, tmp_path)
    yield ModuleTable()
    forget_modules(MODULES, tmp_path)


@pytest.fixture
def sources(table: ModuleTable, tmp_path: Path) -> Sources:
    return server_sources(table, MODULES, tmp_path)


async def turn(session: KernelSession, text: str = "go") -> tuple[str, list[str], list[str]]:
    """One turn: what was answered, the roles of what was kept, what the hook wrote down."""
    answer = await session.execute(text)
    coordinator = session.session.coordinator
    roles = [message["role"] for message in await coordinator.get("context").get_messages()]
    return answer, roles, coordinator.get_capability("ledger.entries")


WHOLE_TURN = (
    'lantern-1 read {"of": "east", "degrees": 90}',
    ["user", "assistant", "tool", "assistant"],
    ["ready with compass", "compass"],
)


async def test_a_set_of_upstream_modules_runs_from_folders(table: ModuleTable, sources: Sources) -> None:
    session = await open_bundle(bundle_of(FROM_FOLDERS), sources, table)

    assert await turn(session) == WHOLE_TURN
    await session.close()


async def test_the_same_set_runs_from_git_and_knows_its_commits(table: ModuleTable, tmp_path: Path) -> None:
    addresses = {module: f"git+https://git.example.com/{module}@main" for module in SET.values()}
    commits = {addresses[module]: (MODULES / module, f"{number:040x}") for number, module in enumerate(addresses)}
    sources = server_sources(table, fetch=checkouts(tmp_path, commits))

    session = await open_bundle(bundle_of(addresses), sources, table)

    assert await turn(session) == WHOLE_TURN
    found = session.loader.activations["tool-compass"]
    commit = commits[addresses["tool-compass"]][1]
    assert (found.kind, found.commit, found.origin) == ("source", commit, addresses["tool-compass"])
    assert found.resolved == f"git+https://git.example.com/tool-compass@{commit}"
    await session.close()


def committed(repository: Path, *modules: str) -> str:
    """Put modules into a repository, as a commit on main; its id."""
    for module in modules:
        shutil.copytree(MODULES / module, repository / module, dirs_exist_ok=True)
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@example.com", "-c", "commit.gpgsign=false")
    for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), (*identity, "commit", "-q", "-m", "change")):
        subprocess.run(["git", "-C", str(repository), *arguments], check=True)
    told = subprocess.run(["git", "-C", str(repository), "rev-parse", "HEAD"], check=True, capture_output=True)
    return told.stdout.decode().strip()


async def test_the_same_set_runs_from_a_real_repository_until_its_branch_moves(
    table: ModuleTable, tmp_path: Path
) -> None:
    repository = tmp_path / "roots" / "modules"
    repository.mkdir(parents=True)
    commit = committed(repository, *SET.values())
    fetcher = SourceFetcher(tmp_path / "cache", SourcePolicy.of(roots=[tmp_path / "roots"]))
    sources = server_sources(table, fetch=fetcher.fetch)
    bundle = bundle_of({module: f"git+file://{repository}@main#subdirectory={module}" for module in SET.values()})

    session = await open_bundle(bundle, sources, table)

    assert await turn(session) == WHOLE_TURN
    assert {found.commit for found in session.loader.activations.values()} == {commit}
    (repository / "README.md").write_text("Moved on.", "utf-8")
    committed(repository)
    with pytest.raises(MountFailed, match="another commit of this one"):
        await open_bundle(bundle, sources, table)
    await session.close()
    await asyncio.to_thread(fetcher.close)


async def test_the_same_set_runs_when_it_is_installed_beside_the_server(
    table: ModuleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in SET.values():
        install(module, tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    bundle = bundle_of(dict.fromkeys(SET.values()), tool={"declination": 3})
    session = await open_bundle(bundle, server_sources(table), table)

    assert (await turn(session))[0] == 'lantern-1 read {"of": "east", "degrees": 93}'
    assert {found.kind for found in session.loader.activations.values()} == {"installed"}
    await session.close()


async def test_a_package_below_src_and_a_folder_that_is_the_package_run_too(
    table: ModuleTable, sources: Sources, tmp_path: Path
) -> None:
    package = package_of("tool-compass")
    shutil.copytree(MODULES / "tool-compass" / package, tmp_path / "below" / "src" / package)
    shutil.copytree(MODULES / "tool-tides" / package_of("tool-tides"), tmp_path / "1f0c-cached")
    (tmp_path / "1f0c-cached" / "__init__.py").write_text(
        (MODULES / "tool-gate" / package_of("tool-gate") / "__init__.py").read_text("utf-8"), "utf-8"
    )

    session = await open_bundle(
        with_tools(
            {"module": "tool-compass", "source": str(tmp_path / "below")},
            {"module": "tool-door", "source": str(tmp_path / "1f0c-cached")},
        ),
        sources,
        table,
    )

    assert sorted(session.session.coordinator.get("tools")) == ["compass", "gate"]
    assert sys.modules[package_of("tool-door")].__file__ == str(tmp_path / "1f0c-cached" / "__init__.py")
    await session.close()


async def test_the_kernels_check_mounts_a_module_once_per_process_and_not_once_per_session(
    table: ModuleTable, sources: Sources, tmp_path: Path
) -> None:
    folder = tmp_path / "tool-counted"
    package = folder / package_of("tool-counted")
    package.mkdir(parents=True)
    original = (MODULES / "tool-gate" / package_of("tool-gate") / "__init__.py").read_text("utf-8")
    (package / "__init__.py").write_text(
        original.replace("config=None):\n", "config=None):\n    mounts.append(coordinator)\n") + "\nmounts = []\n",
        "utf-8",
    )
    bundle = with_tools({"module": "tool-counted", "source": str(folder)})

    for number in range(3):
        await (await open_bundle(bundle, sources, table, session_id=f"s{number}")).close()

    assert len(sys.modules[package_of("tool-counted")].mounts) == 1 + 3


async def test_nothing_of_a_source_is_put_in_front_of_what_the_server_imports(
    table: ModuleTable, sources: Sources
) -> None:
    before = list(sys.path)

    session = await open_bundle(bundle_of(FROM_FOLDERS), sources, table)

    assert sys.path == before
    await session.close()


def versioned(folder: Path, text: str) -> Path:
    """A copy of the compass that answers under another description."""
    shutil.copytree(MODULES / "tool-compass", folder)
    file = folder / package_of("tool-compass") / "__init__.py"
    file.write_text(file.read_text("utf-8").replace("Says in which direction something lies.", text), "utf-8")
    return folder


async def test_a_second_version_of_an_id_is_refused_and_the_first_goes_on(
    table: ModuleTable, sources: Sources, tmp_path: Path
) -> None:
    one = with_tools({"module": "tool-compass", "source": str(versioned(tmp_path / "v1", "Version 1."))})
    two = with_tools({"module": "tool-compass", "source": str(versioned(tmp_path / "v2", "Version 2."))})
    first = await open_bundle(one, sources, table)

    with pytest.raises(MountFailed) as refused:
        await open_bundle(two, sources, table)

    (failure,) = refused.value.failures
    assert (failure.module, failure.conflict) == ("tool-compass", True)
    assert "already loaded from another source" in failure.detail
    assert "give this config a server of its own" in failure.detail
    again = await open_bundle(one, sources, table)
    assert [session.session.coordinator.get("tools")["compass"].description for session in (first, again)] == [
        "Version 1.",
        "Version 1.",
    ]


async def test_a_branch_that_has_moved_is_another_version(table: ModuleTable, tmp_path: Path) -> None:
    address = "git+https://git.example.com/compass@main"
    before = {address: (versioned(tmp_path / "one", "Version 1."), "a" * 40)}
    after = {address: (versioned(tmp_path / "two", "Version 2."), "b" * 40)}
    bundle = with_tools({"module": "tool-compass", "source": address})
    await open_bundle(bundle, server_sources(table, fetch=checkouts(tmp_path, before)), table)

    with pytest.raises(MountFailed, match="or another commit of this one"):
        await open_bundle(bundle, server_sources(table, fetch=checkouts(tmp_path, after)), table)


async def test_two_ids_whose_packages_have_one_name_cannot_both_be_loaded(
    table: ModuleTable, sources: Sources, tmp_path: Path
) -> None:
    other = versioned(tmp_path / "other", "Another compass.")
    await open_bundle(with_tools(from_folder("tool-compass")), sources, table)

    with pytest.raises(MountFailed, match="brings the Python package amplifier_module_tool_compass"):
        await open_bundle(with_tools({"module": "tool-pointer", "source": str(other)}), sources, table)
    with pytest.raises(NotActive) as refused:
        await open_bundle(
            with_tools(from_folder("tool-compass"), {"module": "tool-pointer", "source": str(other)}), sources, table
        )
    assert refused.value.codes == ["module_conflict"]


async def test_a_source_whose_package_is_installed_beside_the_server_is_refused(
    table: ModuleTable, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("tool-compass", tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    with pytest.raises(MountFailed, match="installed beside the server"):
        await open_bundle(with_tools(from_folder("tool-compass")), sources, table)


async def test_a_helper_package_of_one_source_is_never_that_of_another(
    table: ModuleTable, sources: Sources, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        folder = tmp_path / name
        module = folder / package_of(f"tool-{name}")
        module.mkdir(parents=True)
        (folder / "shared_helper.py").write_text(f"NAME = {name!r}\n", "utf-8")
        code = (MODULES / "tool-gate" / package_of("tool-gate") / "__init__.py").read_text("utf-8")
        (module / "__init__.py").write_text("import shared_helper\n" + code, "utf-8")
    await open_bundle(with_tools({"module": "tool-first", "source": str(tmp_path / "first")}), sources, table)

    with pytest.raises(MountFailed, match="shared_helper"):
        await open_bundle(with_tools({"module": "tool-second", "source": str(tmp_path / "second")}), sources, table)


async def test_an_import_that_failed_leaves_nothing_behind(
    table: ModuleTable, sources: Sources, tmp_path: Path
) -> None:
    folder = versioned(tmp_path / "late", "Late.")
    init = folder / package_of("tool-compass") / "__init__.py"
    whole = init.read_text("utf-8")
    init.write_text(whole + "\nraise RuntimeError('not today')\n", "utf-8")
    bundle = with_tools({"module": "tool-compass", "source": str(folder)})
    with pytest.raises(MountFailed, match="not today"):
        await open_bundle(bundle, sources, table)
    assert [name for name in sys.modules if name.startswith(package_of("tool-compass"))] == []

    session = await open_bundle(with_tools(from_folder("tool-compass")), sources, table)

    assert session.session.coordinator.get("tools")["compass"].description == "Says in which direction something lies."


async def test_a_version_that_fails_the_kernels_check_does_not_stand_in_the_way_of_one_that_is_mended(
    table: ModuleTable, sources: Sources, tmp_path: Path
) -> None:
    broken = versioned(tmp_path / "broken", "Broken.")
    init = broken / package_of("tool-compass") / "__init__.py"
    init.write_text(init.read_text("utf-8").replace("await coordinator.mount", "await coordinator.moun"), "utf-8")
    with pytest.raises(MountFailed, match="tool-compass is not a valid module"):
        await open_bundle(with_tools({"module": "tool-compass", "source": str(broken)}), sources, table)

    mended = versioned(tmp_path / "mended", "Mended.")
    session = await open_bundle(with_tools({"module": "tool-compass", "source": str(mended)}), sources, table)

    assert session.session.coordinator.get("tools")["compass"].description == "Mended."


async def test_a_module_that_declares_what_no_config_mounts_is_refused(
    table: ModuleTable, sources: Sources, tmp_path: Path
) -> None:
    package = tmp_path / "tool-odd" / package_of("tool-odd")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "__amplifier_module_type__ = 'resolver'\nasync def mount(coordinator, config): ...\n", "utf-8"
    )

    with pytest.raises(MountFailed, match="declares the type 'resolver'"):
        await open_bundle(with_tools({"module": "tool-odd", "source": str(package.parent)}), sources, table)


async def test_a_module_built_on_amplifier_foundation_is_refused_and_told_why(
    table: ModuleTable, sources: Sources
) -> None:
    with pytest.raises(NotActive) as refused:
        await open_bundle(with_tools(from_folder("tool-herald")), sources, table)

    assert refused.value.codes == ["missing_dependency"]
    assert "tool-herald needs the Python package amplifier_foundation" in str(refused.value)
    assert "only as a git repository" in str(refused.value)


async def test_an_installed_module_that_lacks_amplifier_foundation_is_told_the_same(
    table: ModuleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("tool-herald", tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    with pytest.raises(MountFailed, match="needs the Python package amplifier_foundation, which is not available"):
        await open_bundle(with_tools({"module": "tool-herald"}), server_sources(table), table)


@pytest.fixture
def index(tmp_path: Path) -> dict[str, str]:
    """An environment in which everything installable lies in a folder."""
    wheel(tmp_path / "wheels", "tide-tables", "2.1", "NEXT = 'high water at four'\n")
    return {**os.environ, "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(tmp_path / "wheels"), "SECRET_TOKEN": "s3cret"}


async def test_without_the_switch_what_a_module_needs_is_named(table: ModuleTable, sources: Sources) -> None:
    with pytest.raises(NotActive) as refused:
        await open_bundle(with_tools(from_folder("tool-tides")), sources, table)

    assert refused.value.codes == ["missing_dependency"]
    assert "tool-tides needs tide-tables<3,>=2.0, which this server does not have" in str(refused.value)
    assert "AMPLIFIER_INSTALL_DEPENDENCIES=on" in str(refused.value)


async def test_with_the_switch_it_is_installed_into_a_folder_of_its_own_and_the_module_runs(
    table: ModuleTable, sources: Sources, tmp_path: Path, index: dict[str, str]
) -> None:
    installer = UvInstaller(tmp_path / "data", environment=index)
    bundle = with_tools(from_folder("tool-tides"))

    session = await open_bundle(bundle, sources, table, installer=installer)

    tools: dict[str, Any] = session.session.coordinator.get("tools")
    assert (await tools["tides"].execute({})).output == "high water at four"
    (libraries,) = session.loader.activations["tool-tides"].libraries
    assert libraries.parent == tmp_path / "data" / "modules"
    assert Path(sys.modules["tide_tables"].__file__ or "").is_relative_to(libraries)
    assert sys.path[-1] == str(libraries)
    (log,) = (tmp_path / "data" / "logs").iterdir()
    assert log.name == f"modules-{libraries.name}.log"
    assert "tide-tables==2.1" in log.read_text("utf-8")
    again = await open_bundle(bundle, sources, table, installer=UvInstaller(tmp_path / "data", environment={}))
    assert again.loader.activations["tool-tides"].libraries == (libraries,)


async def test_two_sets_that_need_two_versions_of_one_distribution_are_refused_by_name(
    table: ModuleTable, sources: Sources, tmp_path: Path, index: dict[str, str]
) -> None:
    installer = UvInstaller(tmp_path / "data", environment=index)
    await open_bundle(with_tools(from_folder("tool-tides")), sources, table, installer=installer)
    wheel(tmp_path / "wheels", "tide-tables", "3.0", "NEXT = 'low water'\n")
    folder = tmp_path / "tool-ebb"
    shutil.copytree(MODULES / "tool-gate", folder)
    (folder / package_of("tool-gate")).rename(folder / package_of("tool-ebb"))
    (folder / "requirements.txt").write_text("# newer tables\ntide-tables >= 3  # for the ebb\n", "utf-8")

    with pytest.raises(MountFailed) as refused:
        await open_bundle(
            with_tools({"module": "tool-ebb", "source": str(folder)}), sources, table, installer=installer
        )

    assert refused.value.failures[0].conflict
    assert "tide-tables 3.0 is needed and this process runs tide-tables 2.1" in refused.value.failures[0].detail


async def test_what_cannot_be_installed_is_named_and_the_log_is_kept(
    table: ModuleTable, sources: Sources, tmp_path: Path, index: dict[str, str]
) -> None:
    shutil.rmtree(tmp_path / "wheels")
    (tmp_path / "wheels").mkdir()
    installer = UvInstaller(tmp_path / "data", environment=index)

    with pytest.raises(NotActive) as refused:
        await open_bundle(with_tools(from_folder("tool-tides")), sources, table, installer=installer)

    assert refused.value.codes == ["missing_dependency"]
    assert "tide-tables<3,>=2.0, which could not be installed" in str(refused.value)
    (log,) = (tmp_path / "data" / "logs").iterdir()
    assert f"logs/{log.name}" in str(refused.value)
    assert [found.suffix for found in (tmp_path / "data" / "modules").iterdir() if found.name != "home"] == [".lock"]


def fake_uv(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called uv beside what counts as the server's Python."""
    folder.mkdir()
    (folder / "uv").write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    (folder / "uv").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))


def test_an_installation_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_uv(tmp_path / "bin", "exec sleep 600", monkeypatch)
    installer = UvInstaller(tmp_path / "data", environment=os.environ, limit=timedelta(milliseconds=200))

    with pytest.raises(InstallFailed, match=r"took longer than 0\.2 seconds"):
        installer.install(["tool-tides"], ["tide-tables"])

    assert list((tmp_path / "data" / "modules").glob("*.part")) == []


async def test_closing_ends_an_installation_and_everything_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    fake_uv(tmp_path / "bin", f"exec 3>{pipe}\nenv >&3\necho started >&3\nsleep 600 &\nwait", monkeypatch)
    environment = {"PATH": os.environ["PATH"], "UV_OFFLINE": "1", "ANTHROPIC_API_KEY": "s3cret"}
    installer = UvInstaller(tmp_path / "data", environment=environment)
    installing = asyncio.create_task(asyncio.to_thread(installer.install, ["tool-tides"], ["tide-tables"]))

    def told() -> str:
        """What the program says: the end comes when every process that holds the pipe is gone."""
        with pipe.open("r", encoding="utf-8") as lines:
            heard = ""
            for line in lines:
                heard += line
                if line == "started\n":
                    installer.close()
            return heard

    async with asyncio.timeout(30):
        heard = await asyncio.to_thread(told)
        with pytest.raises(InstallFailed, match="shutting down"):
            await installing

    assert "UV_OFFLINE=1" in heard
    assert "s3cret" not in heard
    with pytest.raises(InstallFailed, match="shutting down"):
        await asyncio.to_thread(installer.install, ["tool-tides"], ["tide-tables"])


async def test_two_servers_that_need_the_same_install_it_once(tmp_path: Path, index: dict[str, str]) -> None:
    installers = [UvInstaller(tmp_path / "data", environment=index) for _ in range(3)]

    folders = await asyncio.gather(
        *(asyncio.to_thread(one.install, ["tool-tides"], ["tide-tables>=2"]) for one in installers)
    )

    assert len(set(folders)) == 1
    assert (folders[0] / "tide_tables.py").read_text("utf-8") == "NEXT = 'high water at four'\n"
    assert len(list((tmp_path / "data" / "logs").iterdir())) == 1


def test_what_a_server_that_was_killed_left_half_filled_is_never_used(tmp_path: Path, index: dict[str, str]) -> None:
    installer = UvInstaller(tmp_path / "data", environment=index)
    folder = installer.install(["tool-tides"], ["tide-tables>=2"])
    half = folder.rename(folder.with_name(f"{folder.name}.other.part"))
    (half / "tide_tables.py").write_text("NEXT = 'half", "utf-8")

    assert installer.install(["tool-tides"], ["tide-tables>=2"]) == folder

    assert (folder / "tide_tables.py").read_text("utf-8") == "NEXT = 'high water at four'\n"
    assert not half.exists()
