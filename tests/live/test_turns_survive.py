"""Accepted is accepted: turns that wait and requests with a key outlive the process that took them."""

from pathlib import Path
from typing import Any

from live_server import LiveServer, payloads

KEY = {"Idempotency-Key": "once"}
SLOW = "[[slow: tokens=20000 delay_ms=5]]"
ENDINGS = ("turn.completed", "turn.failed", "turn.cancelled", "turn.interrupted")


def default_session(server: LiveServer) -> str:
    (config,) = server.get("/configs")["configs"]
    return server.session(config["config_id"])


def ended(server: LiveServer, session_id: str, turn_id: str) -> dict[str, Any]:
    """The turn, once its end is in the log."""
    with server.client.stream("GET", f"/sessions/{session_id}/events", params={"after": 0}) as answer:
        for event in payloads(answer.iter_lines()):
            if event["type"] in ENDINGS and event["turn_id"] == turn_id:
                return server.get(f"/sessions/{session_id}/turns/{turn_id}")
    raise AssertionError("the stream ended before the turn did")


def numbers_are_gapless(server: LiveServer, session_id: str) -> bool:
    events = server.log_of(session_id)
    return [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_turns_that_wait_are_answered_by_the_server_that_comes_back(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", AMPLIFIER_MAX_RUNNING_TURNS="1") as server:
        busy, session_id = default_session(server), default_session(server)
        running = server.post(f"/sessions/{busy}/turns", {"message": SLOW})
        body = {"when_busy": "queue"}
        waiting = [server.post(f"/sessions/{session_id}/turns", {"message": text, **body}) for text in ("one", "two")]
        server.kill()
        server.start()
        server.post(f"/sessions/{busy}/turns/{running['turn_id']}/cancel")

        turns = [ended(server, session_id, turn["turn_id"]) for turn in waiting]

        assert [turn["status"] for turn in waiting] == ["queued", "queued"]
        assert [(turn["status"], turn["response"]) for turn in turns] == [("completed", "one"), ("completed", "two")]
        said = [message["content"] for message in server.transcript(session_id) if message["role"] == "user"]
        assert said == ["one", "two"]
        assert numbers_are_gapless(server, session_id)


def test_a_server_that_is_told_to_stop_leaves_what_waits_to_the_next(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data", AMPLIFIER_SHUTDOWN_GRACE="100ms") as server:
        session_id = default_session(server)
        running = server.post(f"/sessions/{session_id}/turns", {"message": SLOW})
        waiting = server.post(f"/sessions/{session_id}/turns", {"message": "hello", "when_busy": "queue"})
        assert server.terminate() == 0
        server.start()
        server.post(f"/sessions/{session_id}/turns/{running['turn_id']}/cancel")

        turn = ended(server, session_id, waiting["turn_id"])

        assert (turn["status"], turn["response"]) == ("completed", "hello")
        assert numbers_are_gapless(server, session_id)


def test_a_request_that_was_accepted_before_a_kill_is_not_carried_out_again(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        session_id = default_session(server)
        path, body = f"/sessions/{session_id}/turns", {"message": SLOW}
        first = server.post(path, body, headers=KEY)
        server.kill()  # its client never knows whether the answer was on its way
        server.start()

        again = server.client.post(path, json=body, headers=KEY)

        assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
        assert again.json()["turn_id"] == first["turn_id"]
        server.post(f"{path}/{first['turn_id']}/cancel")
        assert server.get(f"/sessions/{session_id}")["message_count"] == 1
        assert server.get(path)["total"] == 1
        assert [message["content"] for message in server.transcript(session_id) if message["role"] == "user"] == [SLOW]


def test_a_message_that_was_answered_before_a_kill_is_answered_the_same_after_it(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        (config,) = server.get("/configs")["configs"]
        opened = server.post("/sessions", {"config_id": config["config_id"]}, headers=KEY)
        path = f"/sessions/{opened['session_id']}/messages"
        answer = server.post(path, {"message": "hello"}, headers=KEY)
        server.kill()
        server.start()

        assert server.post("/sessions", {"config_id": config["config_id"]}, headers=KEY) == opened
        assert server.post(path, {"message": "hello"}, headers=KEY) == answer
        assert server.get("/sessions")["total"] == 1
