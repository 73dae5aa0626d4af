"""The seed's own story on a real server, with the vendor's SDK and a double of the model behind it."""

from pathlib import Path

import pytest

from doubles.fake_llm import FakeLLM
from live_server import LiveServer

KEY = "sk-ant-canary-5f1c9e77"

SEED_EXAMPLE = """
bundle:
  name: dev-config
  version: 1.0.0

includes:
  - bundle: foundation

providers:
  - module: provider-anthropic
    config:
      api_key: ${ANTHROPIC_API_KEY}
      model: claude-sonnet-4-5

session:
  orchestrator: loop-streaming
  context: context-persistent
"""


@pytest.fixture
def llm():
    with FakeLLM(api_key=KEY, record=50) as double:
        yield double


@pytest.fixture
def server(tmp_path: Path, llm: FakeLLM):
    with LiveServer(tmp_path / "data", ANTHROPIC_API_KEY=KEY, ANTHROPIC_BASE_URL=llm.url) as running:
        yield running


def test_the_seeds_example_streams_its_answer_token_by_token(server: LiveServer) -> None:
    session_id = server.session(server.config(SEED_EXAMPLE))

    events = list(server.stream(session_id, "[[text: Hello from the model.]]"))

    assert events[0] == {"type": "connected", "session_id": session_id}
    deltas = [event for event in events if event["type"] == "message.delta"]
    assert [delta["text"] for delta in deltas] == ["Hello ", "from ", "the ", "model."]
    assert events[-2]["content"] == "Hello from the model."
    assert events[-1]["type"] == "done" and events[-1]["usage"]["output_tokens"] == 4


def test_a_file_tool_is_called_and_its_result_reaches_the_model(server: LiveServer, llm: FakeLLM) -> None:
    session_id = server.session(server.config(SEED_EXAMPLE))
    write = '[[tool: write_file {"file_path": "plan.md", "content": "1. ship"}]]'
    text = write + ' [[tool: read_file {"file_path": "plan.md"}]]'

    events = list(server.stream(session_id, text))

    assert "1. ship" in events[-2]["content"]
    tools = [event for event in events if event["type"] == "tool.completed"]
    assert [tool["ok"] for tool in tools] == [True, True]
    assert (server.data_dir / "workspaces" / "default" / session_id / "plan.md").read_text() == "1. ship"
    assert llm.stats()["requests"] == 3


def test_an_overloaded_model_is_asked_again(server: LiveServer, llm: FakeLLM) -> None:
    session_id = server.session(server.config(SEED_EXAMPLE.replace("model:", "min_retry_delay: 0.01\n      model:")))

    answer = server.say(session_id, "[[error: status=529 times=1]] [[text: here after all]]")

    assert answer["response"] == "here after all"
    assert llm.stats()["by_status"] == {"529": 1, "200": 1}


def test_a_session_goes_on_after_the_server_was_killed(server: LiveServer, llm: FakeLLM) -> None:
    session_id = server.session(server.config(SEED_EXAMPLE))
    server.say(session_id, "[[text: I will remember 42.]]")
    server.kill()
    server.start()

    answer = server.say(session_id, "[[text: It was 42.]]")

    assert answer["response"] == "It was 42."
    sent = llm.recorded()[-1]["body"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert "I will remember 42." in str(sent[1])
    assert [message["role"] for message in server.transcript(session_id)] == ["user", "assistant"] * 2


def test_a_turn_that_was_running_when_the_server_was_killed_goes_on_before_the_first_request(
    server: LiveServer,
) -> None:
    session_id = server.session(server.config(SEED_EXAMPLE))
    stream = server.stream(session_id, "[[slow: tokens=60 delay_ms=20]]")
    while next(stream)["type"] != "message.delta":
        pass
    server.kill()
    server.start()

    (turn,) = server.get(f"/sessions/{session_id}/turns")["turns"]
    assert (turn["status"], turn["attempt"]) == ("running", 2)
    assert server.turn_ended(session_id)["response"].split() == [f"w{n}" for n in range(60)]
    assert server.say(session_id, "[[text: going on]]")["response"] == "going on"
    events = server.log_of(session_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [message["role"] for message in server.transcript(session_id)] == ["user", "assistant"] * 2


def test_a_cancel_closes_the_connection_to_the_model_and_keeps_the_text(server: LiveServer, llm: FakeLLM) -> None:
    session_id = server.session(server.config(SEED_EXAMPLE))
    stream = server.stream(session_id, "[[slow: tokens=500 delay_ms=20]]")
    while next(stream)["type"] != "message.delta":
        pass

    answer = server.post(f"/sessions/{session_id}/cancel")

    assert answer["status"] == "cancelled"
    assert llm.wait_for_abort()
    *_, response, done = stream
    assert done["stop_reason"] == "user_cancel"
    assert response["content"].startswith("w0")
    assert server.say(session_id, "[[text: next]]")["response"] == "next"


def test_a_client_that_hangs_up_costs_nothing(server: LiveServer) -> None:
    session_id = server.session(server.config(SEED_EXAMPLE))
    stream = server.stream(session_id, "[[slow: tokens=30 delay_ms=10]]")
    while next(stream)["type"] != "message.delta":
        pass
    stream.close()

    with server.client.stream("GET", f"/sessions/{session_id}/events", params={"after": 0}) as answer:
        for line in answer.iter_lines():
            if line == "event: turn.completed":
                break

    message = server.transcript(session_id)[-1]
    assert message["content"][0]["text"].endswith("w29")


def test_a_wrong_key_fails_the_turn_and_is_shown_nowhere(tmp_path: Path, llm: FakeLLM) -> None:
    wrong = "sk-ant-wrong-0badc0ffee"
    with LiveServer(tmp_path / "data", ANTHROPIC_API_KEY=wrong, ANTHROPIC_BASE_URL=llm.url) as server:
        session_id = server.session(server.config(SEED_EXAMPLE))
        answer = server.client.post(f"/sessions/{session_id}/messages", json={"message": "hi"})
        shown = answer.text + str(server.log_of(session_id)) + str(server.get(f"/sessions/{session_id}"))

    assert (answer.status_code, answer.json()["code"]) == (502, "provider_authentication")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["turn_id"]
    assert wrong not in shown


def test_a_missing_key_refuses_the_session_and_names_the_variable(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "data") as server:
        config_id = server.config(SEED_EXAMPLE)
        answer = server.client.post("/sessions", json={"config_id": config_id})

        assert (answer.status_code, answer.json()["code"]) == (422, "config_not_runnable")
        assert [item["code"] for item in answer.json()["errors"]] == ["missing_variable"]
        assert "ANTHROPIC_API_KEY" in answer.json()["errors"][0]["detail"]
        assert server.get("/sessions")["total"] == 0


def test_a_key_is_in_no_answer_no_log_and_no_file_of_the_server(server: LiveServer) -> None:
    config_id = server.config(SEED_EXAMPLE)
    session_id = server.session(config_id, variables={"UNUSED": "canary-variable-77aa"})
    told = [str(list(server.stream(session_id, "[[error: status=401]]")))]
    told.append(str(list(server.stream(session_id, '[[tool: read_file {"file_path": "/etc/passwd"}]]'))))
    paths = (f"/configs/{config_id}", f"/sessions/{session_id}?include=transcript", "/version", "/health")
    told.extend(server.client.get(path).text for path in paths)
    told.append(str(server.log_of(session_id)))
    server.terminate()
    told.append(server.log.read_text())
    told.extend(file.read_bytes().decode("latin-1") for file in server.data_dir.rglob("*") if file.is_file())

    for secret in (KEY, "canary-variable-77aa"):
        assert [text[:80] for text in told if secret in text] == []
