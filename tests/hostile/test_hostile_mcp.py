"""MCP servers that hang, lie, flood or die: the session goes on, is told, and nothing is left of them."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from mcp_programs import program
from mcp_sessions import LONGEST_WAIT, ByHand, answer, desk, web_server
from tool_programs import need_bubblewrap, processes_with, until_running

LOCAL = {"host.private_addresses": True}


@pytest.fixture
def mark(tmp_path: Path) -> str:
    """What the command lines of this test's programs hold."""
    need_bubblewrap()
    return f"mark-{tmp_path.name}-hostile"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("hangs", "it could not be connected within 1 seconds"),
        ("deaf", "it could not be connected within 1 seconds"),
        ("dies", "it ended (ended with exit code 1: the database is not there)"),
        ("chatters", "it says more than is listened to"),
        ("wrong-list", "it does not speak MCP"),
        ("no-such-kind", "it ended (ended with exit code 1: no server no-such-kind)"),
    ],
)
async def test_a_program_that_cannot_be_connected_says_why(tmp_path: Path, mark: str, kind: str, reason: str) -> None:
    limit = {"connect_timeout": 1} if kind in ("hangs", "deaf") else {}
    async with desk(tmp_path, {"s": program(kind, mark, **limit)}) as at:
        assert at.display.shown == [(f"The MCP server s is away: {reason}", "warning", "tool-mcp")]
        assert at.tools() == ["mcp"]
        refusal = await at.refusal("mcp", action="resources", server="s")
        assert refusal.startswith(f"The MCP server s is away: {reason}")
    assert processes_with(mark) == []


@pytest.mark.parametrize(
    ("kind", "tool", "reason"),
    [
        ("huge", "huge", "it sent more than 4,194,304 bytes in one message"),
        ("endless", "endless", "it sent more than 4,194,304 bytes in one message"),
        ("floods", "flood", "it says more than is listened to"),
        ("dies-in-call", "die", "it ended"),
        ("unreadable", "unreadable", "it sent a message that cannot be read"),
    ],
)
async def test_a_program_that_goes_wrong_in_a_call_loses_the_call(
    tmp_path: Path, mark: str, kind: str, tool: str, reason: str
) -> None:
    async with desk(tmp_path, {"s": program(kind, mark)}) as at:
        assert await at.refusal(f"mcp_s_{tool}") == f"The MCP server s was lost during the call: {reason}"

        async def is_told() -> bool:
            return at.display.shown != []

        await at.until(is_told)
        assert at.display.shown[0][0].startswith(f"The MCP server s is away: {reason}")
    assert processes_with(mark) == []


async def test_an_answer_that_is_none_fails_the_call_and_nothing_else(tmp_path: Path, mark: str) -> None:
    async with desk(tmp_path, {"s": program("nonsense", mark)}) as at:
        assert await at.refusal("mcp_s_nonsense") == "The MCP server s answered something that MCP does not know"
        assert await at.state() == "connected"


async def test_a_program_that_no_longer_listens_is_left_in_time(tmp_path: Path, mark: str) -> None:
    async with desk(tmp_path, {"s": program("stuck", mark, timeout=0.2)}) as at:
        calls = (at.refusal("mcp_s_stick", padding="x" * 100_000) for _ in range(100))

        assert set(await asyncio.gather(*calls)) == {"The MCP server s did not answer within 0.2 seconds"}
    assert processes_with(mark) == []


async def test_a_program_that_lets_everything_wait_is_given_up(tmp_path: Path, mark: str) -> None:
    async with desk(tmp_path, {"s": program("stuck", mark)}) as at:
        calls = (at.refusal("mcp_s_stick", padding="x" * 100_000) for _ in range(300))

        assert set(await asyncio.gather(*calls)) == {
            "The MCP server s was lost during the call: it does not read what it is sent"
        }
    assert processes_with(mark) == []


async def test_lies_about_tools_are_made_harmless(tmp_path: Path, mark: str) -> None:
    async with desk(tmp_path, {"s": program("lies", mark)}) as at:
        tools = at.coordinator.get("tools")

        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in tools)
        assert len(tools) == 8  # `trap` was listed twice
        assert tools["mcp_s_deep"].input_schema == {"type": "object"}
        assert tools["mcp_s_large"].input_schema == {"type": "object"}
        assert len(tools["mcp_s_told"].description) < 4_100
        # Its output schema has a pattern that this answer would be compared with for years.
        assert await at.say("mcp_s_trap") == "fine"


async def test_no_more_tools_are_mounted_than_a_model_can_take(tmp_path: Path, mark: str) -> None:
    async with desk(tmp_path, {"s": program("many", mark)}, max_tools=20) as at:
        assert len(at.tools()) == 21


async def test_what_cannot_be_sent_costs_the_call_and_not_the_connection(tmp_path: Path, mark: str) -> None:
    deep: Any = []
    for _ in range(2_000):
        deep = [deep]
    async with desk(tmp_path, {"s": program("demo", mark)}) as at:
        refusals = [
            await at.refusal("mcp_s_look", what="\ud800"),
            await at.refusal("mcp_s_look", what=deep),
            await at.refusal("mcp", action="read", server="s", uri="demo://\ud800"),
            await at.refusal("mcp", action="prompt", server="s", name="ask", arguments={"name": "\ud800"}),
        ]

        said = "That cannot be sent to a server: it holds half a character, or is nested too deep"
        assert refusals == [said] * 4
        assert await at.say("mcp_s_look", what="it") == "saw it"


async def test_many_servers_have_no_more_tools_together(tmp_path: Path, mark: str) -> None:
    servers = {name: program("many", mark) for name in ("a", "b", "c")}
    async with desk(tmp_path, servers, max_tools=20) as at:
        assert len(at.tools()) == 21


async def test_a_session_that_is_given_up_while_it_opens_leaves_no_program(tmp_path: Path, mark: str) -> None:
    opening = asyncio.create_task(desk(tmp_path, {"s": program("deaf", mark)}).__aenter__())
    await until_running(mark)
    opening.cancel()

    with pytest.raises(asyncio.CancelledError):
        await opening
    assert processes_with(mark) == []


async def test_a_close_that_is_given_up_leaves_no_program(tmp_path: Path, mark: str) -> None:
    session = desk(tmp_path, {"s": program("deaf", mark)}, startup_timeout=0)
    await session.__aenter__()
    await until_running(mark)
    closing = asyncio.create_task(session.__aexit__(None, None, None))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    async with asyncio.timeout(LONGEST_WAIT):
        while processes_with(mark):  # noqa: ASYNC110 - the process table tells nobody that it changed
            await asyncio.sleep(0.01)


async def test_a_program_does_not_reach_the_network_unless_it_may(tmp_path: Path, mark: str) -> None:
    script = (
        f"import socket; socket.create_connection(('127.0.0.1', {{port}}), 5); raise SystemExit('reached')  # {mark}"
    )

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"

    async with web_server(nothing) as port:
        command = {"command": program("")["command"], "args": ["-c", script.format(port=port)]}
        capabilities = {"host.command_limits": {"network": True}}
        async with desk(tmp_path, {"s": command}) as at:
            assert "Connection refused" in await at.state()
        async with desk(tmp_path, {"s": {**command, "network": True}}, capabilities={"host.command_limits": {}}) as at:
            assert "Connection refused" in await at.state()
        async with desk(tmp_path, {"s": {**command, "network": True}}, capabilities=capabilities) as at:
            assert "reached" in await at.state()


async def test_addresses_that_are_not_public_are_not_dialled(tmp_path: Path) -> None:
    async def never(server: ByHand, message: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    app = ByHand(never)
    async with web_server(app) as port, desk(tmp_path, {"s": {"url": f"http://localhost:{port}/mcp"}}) as at:
        assert await at.state() == (
            "away: The host localhost has an address that is not public; this server does not go there"
        )
    assert app.headers == []


async def on_web(tmp_path: Path, on_call: Any, **server: Any) -> tuple[ByHand, str]:
    """What a call says when the server answers it so."""
    app = ByHand(on_call)
    async with web_server(app) as port:
        servers = {"s": {"url": f"http://127.0.0.1:{port}/mcp", **server}}
        async with desk(tmp_path, servers, capabilities=LOCAL) as at:
            assert at.tools() == ["mcp", "mcp_s_go"]
            return app, await at.refusal("mcp_s_go")


async def test_a_huge_answer_from_the_web_is_not_read_to_its_end(tmp_path: Path) -> None:
    async def huge(server: ByHand, message: Any, receive: Any, send: Any) -> None:
        await answer(send, 200, b"x" * 100_000_000)

    _, said = await on_web(tmp_path, huge)

    assert said == "The MCP server s was lost during the call: it sent more than 4,194,304 bytes in one message"


async def test_an_endless_stream_of_nothing_is_left(tmp_path: Path) -> None:
    async def endless(server: ByHand, message: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        try:
            while True:
                await send({"type": "http.response.body", "body": b": wait\n\n" * 10_000, "more_body": True})
                if server.left.is_set():
                    return
        except OSError:
            return

    async def listen(server: ByHand, message: Any, receive: Any, send: Any) -> None:
        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            server.left.set()

        watching = asyncio.create_task(gone())
        await endless(server, message, receive, send)
        await watching

    app, said = await on_web(tmp_path, listen)

    assert said == "The MCP server s was lost during the call: it says more than is listened to"
    assert app.left.is_set()


async def test_an_answer_that_is_packed_is_not_unpacked(tmp_path: Path) -> None:
    async def packed(server: ByHand, message: Any, receive: Any, send: Any) -> None:
        await answer(send, 200, b"\x1f\x8b", content_encoding="gzip")

    app, said = await on_web(tmp_path, packed)

    assert said.startswith("The MCP server s was lost during the call: ")
    assert {headers["accept-encoding"] for headers in app.headers} == {"identity"}


async def test_a_redirect_takes_nobody_elsewhere(tmp_path: Path) -> None:
    reached = asyncio.Event()

    async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            reached.set()
            await answer(send, 200, b"{}")

    async with web_server(elsewhere) as other:

        async def redirect(server: ByHand, message: Any, receive: Any, send: Any) -> None:
            await answer(send, 307, b"", location=f"http://127.0.0.1:{other}/mcp")

        _, said = await on_web(tmp_path, redirect, headers={"Authorization": "Bearer the-key"})

    assert said.startswith(f"The MCP server s refused: Redirect to http://127.0.0.1:{other}/mcp not followed")
    assert not reached.is_set()


async def test_a_server_on_the_web_that_hangs_is_left_when_the_call_is_given_up(tmp_path: Path) -> None:
    called = asyncio.Event()

    async def hang(server: ByHand, message: Any, receive: Any, send: Any) -> None:
        called.set()
        await asyncio.Event().wait()

    app = ByHand(hang)
    async with web_server(app) as port:
        servers = {"s": {"url": f"http://127.0.0.1:{port}/mcp", "headers": {"Authorization": "Bearer the-key"}}}
        async with desk(tmp_path, servers, capabilities=LOCAL) as at:
            call = asyncio.create_task(at.call("mcp_s_go"))
            await called.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await at.state() == "connected"
    assert {headers["authorization"] for headers in app.headers} == {"Bearer the-key"}
    assert [task for task in asyncio.all_tasks() if "mcp" in task.get_name()] == []
