import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from amplifier_core.llm_errors import ConfigurationError
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.tools.mcp_content import MAX_NAME, bounded, safe_schema, tool_name
from mcp_programs import demo, program
from mcp_sessions import Desk, desk, web_server
from tool_programs import need_bubblewrap, path_without, processes_with, until_running

DEMO_TOOLS = ["add", "counted", "environment", "fail", "grow", "leave", "look", "say", "sleep", "write"]


@pytest.fixture
def sandbox() -> None:
    need_bubblewrap()


in_sandbox = pytest.mark.usefixtures("sandbox")


@pytest.fixture
async def at(tmp_path: Path, sandbox: None) -> AsyncIterator[Desk]:
    """A session with the real server, a program in the sandbox."""
    folder = tmp_path / "session"
    folder.mkdir()
    async with desk(folder, {"s": program("demo", str(tmp_path))}) as made:
        yield made


async def test_the_tools_of_a_program_are_the_sessions_tools(at: Desk) -> None:
    assert at.tools() == ["mcp", *(f"mcp_s_{name}" for name in DEMO_TOOLS)]
    assert at.coordinator.get("tools", "mcp_s_add").description == "Add two numbers."
    assert at.coordinator.get("tools", "mcp_s_add").input_schema["required"] == ["a", "b"]
    assert await at.say("mcp_s_add", a=1, b=2) == "3"
    assert at.display.shown == []


async def test_a_tool_that_fails_is_a_failed_result(at: Desk) -> None:
    assert await at.refusal("mcp_s_fail") == "Error executing tool fail"


async def test_resources_and_prompts_are_reached_by_one_tool(at: Desk) -> None:
    assert await at.say("mcp", action="servers") == [{"server": "s", "state": "connected"}]
    assert await at.say("mcp", action="resources", server="s") == {
        "resources": [{"uri": "demo://greeting", "name": "greeting", "description": "How to greet."}],
        "templates": [],
    }
    assert await at.say("mcp", action="read", server="s", uri="demo://greeting") == "hello"
    assert await at.say("mcp", action="prompts", server="s") == [
        {"name": "ask", "description": "Ask somebody.", "arguments": ["name"]}
    ]
    assert await at.say("mcp", action="prompt", server="s", name="ask", arguments={"name": "Bo"}) == "user: Ask Bo"
    assert await at.refusal("mcp", action="read", server="t") == "There is no such server. Servers: s"


async def test_long_answers_are_cut_in_the_middle(at: Desk) -> None:
    said = await at.say("mcp_s_say", letters=60_000)

    assert said == "x" * 25_000 + "\n[10,000 characters left out]\n" + "x" * 25_000


async def test_a_program_has_only_what_its_options_give_it(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = json.loads(await at.say("mcp_s_environment"))

    assert environment.pop("PATH").startswith("/usr/local/sbin:")
    assert {name: environment[name] for name in ("HOME", "TMPDIR", "PYTHONDONTWRITEBYTECODE")} == {
        "HOME": str(at.folder),
        "TMPDIR": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    assert set(environment) <= {"HOME", "TMPDIR", "PYTHONDONTWRITEBYTECODE", "USER", "LANG", "PWD", "LC_CTYPE"}


async def test_a_program_writes_in_the_sessions_folder_and_not_beside_it(at: Desk) -> None:
    beside = at.folder.parent / "beside.txt"

    await at.say("mcp_s_write", path=str(at.folder / "in.txt"))
    await at.call("mcp_s_write", path=str(beside))

    assert (at.folder / "in.txt").read_text() == "written"
    assert not beside.exists()


async def test_a_program_that_ended_is_started_again_by_the_next_call(at: Desk) -> None:
    assert await at.say("mcp_s_counted") == "1"
    assert (await at.refusal("mcp_s_leave")).startswith("The MCP server s was lost during the call: it ended")

    async def is_back() -> bool:
        return (await at.call("mcp_s_counted")).success

    await at.until(is_back)
    assert await at.say("mcp_s_counted") == "2"
    assert [message for message, _, _ in at.display.shown] == [
        "The MCP server s is away: it ended (ended with exit code 7)"
    ]


async def test_tools_that_a_server_adds_are_the_sessions_tools_too(at: Desk) -> None:
    await at.say("mcp_s_grow")

    async def has_grown() -> bool:
        return "mcp_s_grown" in at.tools()

    await at.until(has_grown)
    assert await at.say("mcp_s_grown") == "new"


async def test_closing_the_session_ends_the_program_and_what_it_started(tmp_path: Path, sandbox: None) -> None:
    mark = f"mark-{tmp_path.name}-closing"
    async with desk(tmp_path, {"s": program("demo")}) as at:
        call = asyncio.create_task(at.call("mcp_s_sleep", mark=mark))
        await until_running(mark)

    assert processes_with(mark) == []
    assert not (await call).success


async def test_a_cancelled_call_leaves_the_server_to_others(at: Desk) -> None:
    mark = f"mark-{at.folder.parent.name}-cancelled"
    call = asyncio.create_task(at.call("mcp_s_sleep", mark=mark))
    await until_running(mark)
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert await at.state() == "connected"


async def test_a_call_takes_its_time_and_no_longer(tmp_path: Path, sandbox: None) -> None:
    async with desk(tmp_path, {"s": program("demo", timeout=0.2)}) as at:
        assert await at.refusal("mcp_s_sleep", mark="x") == "The MCP server s did not answer within 0.2 seconds"


async def test_only_allowed_tools_are_mounted(tmp_path: Path, sandbox: None) -> None:
    async with desk(tmp_path, {"s": program("demo", allowed_tools=["add", "look"])}) as at:
        assert at.tools() == ["mcp", "mcp_s_add", "mcp_s_look"]


@pytest.mark.parametrize("trusted", [False, True])
async def test_what_a_server_says_of_its_tools_is_believed_when_told_so(
    tmp_path: Path, sandbox: None, trusted: bool
) -> None:
    async with desk(tmp_path, {"s": program("demo", trust_annotations=trusted)}) as at:
        look, add = (at.coordinator.get("tools", f"mcp_s_{name}") for name in ("look", "add"))

        assert (look.read_only, look.idempotent) == (trusted, trusted)
        assert (add.read_only, add.idempotent) == (False, False)


async def test_a_server_that_is_switched_off_is_not_there(tmp_path: Path) -> None:
    async with desk(tmp_path, {"s": program("demo", enabled=False)}) as at:
        assert at.tools() == ["mcp"]
        assert await at.say("mcp", action="servers") == []


async def test_one_bad_server_is_told_once_and_keeps_nobody_from_the_others(tmp_path: Path, sandbox: None) -> None:
    async with desk(tmp_path, {"good": program("demo"), "bad": program("dies")}) as at:
        away = "it ended (ended with exit code 1: the database is not there)"

        assert await at.say("mcp_good_add", a=2, b=2) == "4"
        assert await at.state("bad") == f"away: {away}"
        told = await at.refusal("mcp", action="resources", server="bad")
        assert told.startswith(f"The MCP server bad is away: {away}")
        assert at.display.shown == [(f"The MCP server bad is away: {away}", "warning", "tool-mcp")]


async def test_a_server_that_hangs_does_not_hold_the_opening(tmp_path: Path, sandbox: None) -> None:
    mark = f"mark-{tmp_path.name}-hangs"
    async with desk(tmp_path, {"s": program("hangs", mark)}, startup_timeout=0) as at:
        assert await at.state() == "being connected"
        await until_running(mark)

    assert processes_with(mark) == []


async def test_without_a_sandbox_no_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path_without(monkeypatch, tmp_path)
    async with desk(tmp_path, {"s": program("demo")}) as at:
        assert await at.state() == ("away: there is no sandbox to run it in: bubblewrap (bwrap) is not installed")


@pytest.mark.parametrize("limits", [{"unsandboxed": "ask"}, {"unsandboxed": "refuse"}, {}])
async def test_an_option_does_without_a_sandbox_only_where_the_host_lets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any]
) -> None:
    path_without(monkeypatch, tmp_path)
    capabilities = {"host.command_limits": limits}
    async with desk(tmp_path, {"s": program("demo")}, capabilities=capabilities, unsandboxed="allow") as at:
        assert (await at.state()).startswith("away: there is no sandbox")


async def test_a_program_runs_without_a_sandbox_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path_without(monkeypatch, tmp_path)
    capabilities = {"host.command_limits": {"unsandboxed": "allow"}}
    mark = f"mark-{tmp_path.name}-open"
    servers = {"s": program("demo", mark)}
    async with desk(tmp_path, servers, capabilities=capabilities, unsandboxed="allow") as at:
        assert await at.say("mcp_s_add", a=1, b=2) == "3"
        assert "AMPLIFIER" not in await at.say("mcp_s_environment")
    assert processes_with(mark) == []


async def test_a_host_can_forbid_programs(tmp_path: Path) -> None:
    capabilities = {"host.command_limits": {"unsandboxed": "allow", "mcp_programs": False}}
    async with desk(tmp_path, {"s": program("demo")}, capabilities=capabilities) as at:
        assert await at.state() == "away: this server does not start programs for sessions"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[int]:
    async with web_server(demo().streamable_http_app()) as port:
        yield port


LOCAL = {"host.private_addresses": True}


async def test_the_tools_of_a_server_on_the_web_are_the_sessions_tools(tmp_path: Path, web: int) -> None:
    async with desk(tmp_path, {"s": {"url": f"http://127.0.0.1:{web}/mcp"}}, capabilities=LOCAL) as at:
        assert at.tools() == ["mcp", *(f"mcp_s_{name}" for name in DEMO_TOOLS)]
        assert await at.say("mcp_s_add", a=1, b=2) == "3"
        assert await at.say("mcp", action="read", server="s", uri="demo://greeting") == "hello"


async def test_a_server_on_the_web_that_comes_back_is_connected_again(tmp_path: Path) -> None:
    async with web_server(demo().streamable_http_app()) as port:
        at_port = {"s": {"url": f"http://127.0.0.1:{port}/mcp"}}
        session = desk(tmp_path, at_port, capabilities=LOCAL)
        at = await session.__aenter__()
        assert await at.say("mcp_s_counted") == "1"
    try:
        await at.refusal("mcp_s_counted")
        async with web_server(demo().streamable_http_app(), port):

            async def is_back() -> bool:
                return (await at.call("mcp_s_counted")).success

            await at.until(is_back)
            assert await at.state() == "connected"
            await session.__aexit__(None, None, None)
    except BaseException:
        await session.__aexit__(None, None, None)
        raise


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"servers": ["s"]}, "option 'servers' must be a mapping"),
        ({"servers": {"s": {}}}, "option 'servers.s' must have either command or url"),
        ({"servers": {"s": {"command": "a", "url": "http://b"}}}, "must have either command or url"),
        ({"servers": {"a b": {"command": "a"}}}, "must be named with up to 32 letters, digits, - and _"),
        ({"servers": {"s": {"url": "ftp://a"}}}, "option 'servers.s.url' must be an http or https address"),
        ({"servers": {"s": {"url": "http://a", "headers": {"A\n": "b"}}}}, "holds a header that no server can be sent"),
        ({"servers": {"s": {"url": "http://a", "headers": {"A": "b\r\nC: d"}}}}, "holds a header"),
        ({"servers": {"s": {"command": "a", "env": {"A=B": "c"}}}}, "must be a mapping of names to texts"),
        ({"servers": {"s": {"command": "a", "args": ["\0"]}}}, "holds a NUL character"),
        ({"servers": {"s": {"command": "a", "args": "b"}}}, "option 'servers.s.args' must be a list"),
        ({"servers": {str(number): {"command": "a"} for number in range(33)}}, "has more than 32 entries"),
        ({"unsandboxed": "ask"}, "option 'unsandboxed' must be one of: refuse, allow"),
    ],
)
async def test_options_that_cannot_be_are_refused(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await load_mount("tool-mcp")(MockCoordinator(), config)

    assert problem in str(refused.value)


async def test_folders_outside_those_of_the_host_are_refused(tmp_path: Path) -> None:
    capabilities = {"host.file_limits": {"readable": [str(tmp_path)], "writable": []}}

    with pytest.raises(ConfigurationError, match="outside the folders this server allows"):
        async with desk(tmp_path, {}, capabilities=capabilities, allowed_read_paths=["/etc"]):
            pass


def test_names_are_what_every_vendor_takes() -> None:
    assert tool_name("s", "add", ()) == "mcp_s_add"
    assert tool_name("s", "näme/a.b c", ()) == "mcp_s_n_me_a_b_c"
    taken = {"mcp_s_a_b"}
    assert tool_name("s", "a/b", taken) != tool_name("s", "a.b", taken)
    assert len(tool_name("s", "x" * 200, ())) == MAX_NAME


def test_a_schema_that_is_no_objects_takes_anything() -> None:
    assert safe_schema({"properties": {"a": {}}}) == {"type": "object", "properties": {"a": {}}}
    assert safe_schema({"type": "string"}) == {"type": "object"}


def test_a_short_text_is_whole() -> None:
    assert bounded("abc", 3) == "abc"
    assert bounded("abcdef", 3) == "ab\n[3 characters left out]\nf"
