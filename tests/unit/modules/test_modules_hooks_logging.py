import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.hooks.session_log import LogFile, LogOptions

SECRET = "ghp_" + "abcdefghijklmnopqrst" + "uvwxyzABCDEF012345"


def logging(**options: Any) -> dict[str, Any]:
    return {"module": "hooks-logging", "config": options}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


async def session(tmp_path: Path, **options: Any) -> tuple[MockCoordinator, Any]:
    coordinator = MockCoordinator()
    coordinator.register_capability("host.log_dir", str(tmp_path / "logs"))
    return coordinator, await load_mount("hooks-logging")(coordinator, options)


async def test_a_turn_is_a_line_for_each_event_in_the_folder_of_the_host(open_chat: Any, tmp_path: Path) -> None:
    chat = await open_chat(replies=["hello"], hooks=[logging()], capabilities={"host.log_dir": str(tmp_path / "logs")})

    await chat.say("hi")
    written = lines(tmp_path / "logs")

    assert [line["event"] for line in written][:2] == ["session:start", "prompt:submit"]
    assert written[1]["data"]["prompt"] == "hi"
    assert {"prompt:complete", "orchestrator:complete", "llm:response", "content_block:end"} <= {
        line["event"] for line in written
    }
    assert all(line["session_id"] == chat.session.session_id for line in written)
    assert not any("stream" in line["event"] for line in written)
    assert names(tmp_path / "logs") == [f"{chat.session.session_id}.jsonl"]


async def test_without_such_a_folder_it_is_in_the_sessions_own(open_chat: Any, tmp_path: Path) -> None:
    chat = await open_chat(replies=["hello"], hooks=[logging()], working_dir=str(tmp_path))

    await chat.say("hi")

    assert lines(tmp_path / ".amplifier" / "logs")


async def test_a_link_on_the_way_is_not_followed_and_the_turn_goes_on(open_chat: Any, tmp_path: Path) -> None:
    shown: list[str] = []
    display = SimpleNamespace(show_message=lambda text, level, source: shown.append(text))
    (tmp_path / "session" / ".amplifier").mkdir(parents=True)
    (tmp_path / "session" / ".amplifier" / "logs").symlink_to(tmp_path)
    chat = await open_chat(
        replies=["one", "two"], hooks=[logging()], working_dir=str(tmp_path / "session"), display_system=display
    )

    assert [await chat.say("hi"), await chat.say("hi")] == ["one", "two"]
    assert names(tmp_path) == ["session"]
    assert shown == ["The log of this session cannot be written"]


async def test_no_secret_and_no_raw_payload_is_logged(tmp_path: Path) -> None:
    coordinator, close = await session(tmp_path)
    await load_mount("hooks-redaction")(coordinator, {})  # mounted later, and all the same in time

    await coordinator.hooks.emit("tool:pre", {"tool_input": {"command": f"echo {SECRET}", "password": "pw"}})
    await coordinator.hooks.emit("llm:request", {"raw": {"everything": 1}, "model": "m", "nested": {"raw": 1}})
    close()

    pre, request = lines(tmp_path / "logs")
    assert pre["data"]["tool_input"] == {"command": "echo [redacted:github-token]", "password": "***"}
    assert (request["data"]["model"], request["data"]["nested"]) == ("m", {})
    assert "raw" not in request["data"]


async def test_raw_payloads_are_kept_when_asked_for(tmp_path: Path) -> None:
    coordinator, close = await session(tmp_path, strip_raw=False)
    await coordinator.hooks.emit("llm:request", {"raw": {"api_key": "k", "x": 1}})
    close()

    assert lines(tmp_path / "logs")[0]["data"]["raw"] == {"api_key": "***", "x": 1}


async def test_long_texts_are_cut_and_full_files_turned_over(tmp_path: Path) -> None:
    coordinator, close = await session(tmp_path, max_text=1000, max_file_bytes=4096, max_files=2)

    for number in range(20):
        await coordinator.hooks.emit("prompt:submit", {"prompt": "x" * 5000, "number": number})
        await coordinator.hooks.emit("orchestrator:complete", {})
    close()

    files = sorted((tmp_path / "logs").iterdir())
    assert len(files) == 2
    assert all(file.stat().st_size <= 4096 for file in files)
    newest = [line for line in lines(tmp_path / "logs") if line["event"] == "prompt:submit"]
    assert max(line["data"]["number"] for line in newest) == 19
    assert newest[-1]["data"]["prompt"].endswith("[… 4,000 more characters]")


async def test_events_of_other_modules_are_logged_when_they_are_announced(tmp_path: Path) -> None:
    coordinator = MockCoordinator()
    coordinator.register_capability("host.log_dir", str(tmp_path / "logs"))
    coordinator.register_contributor("observability.events", "mine", lambda: ["mine:happened", 5])
    close = await load_mount("hooks-logging")(coordinator, {"events": [], "additional_events": ["yours:happened"]})

    for event in ("mine:happened", "yours:happened", "other:happened", "prompt:submit"):
        await coordinator.hooks.emit(event, {})
    close()

    assert [line["event"] for line in lines(tmp_path / "logs")] == ["mine:happened", "yours:happened"]


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", ""])
def test_an_id_of_any_kind_is_a_file_below_the_folder(tmp_path: Path, name: str) -> None:
    LogFile(tmp_path / "logs", Path(), name, LogOptions(4096, 1, 100, True)).append(b"{}\n")

    assert [file.parent for file in tmp_path.rglob("*.jsonl")] == [tmp_path / "logs"]


async def test_nothing_is_left_when_it_is_closed(tmp_path: Path) -> None:
    coordinator, close = await session(tmp_path)
    assert coordinator.hooks.list_handlers()["prompt:submit"] == ["hooks-logging:prompt:submit"]

    close()

    assert not any(coordinator.hooks.list_handlers().values())
