"""Messages of blocks over HTTP: taken, told, refused, and carried from session to session."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from amplifier_app_api.services import Services, open_services
from amplifier_app_api.settings import Settings
from images import EYES, PNG, SHOWN, linked, picture, text
from runtime_bundles import bundle_text
from runtime_faults import written_module

MESSAGE = [text("see"), picture()]
SEEN = f"see + image/png {PNG}"


@pytest.fixture
async def services(data_dir: Path, tmp_path: Path) -> Any:
    settings = Settings(data_dir=data_dir, default_config=False, source_roots=(tmp_path,))
    async with open_services(settings) as opened:
        yield opened


@pytest.fixture
async def config_id(client: httpx2.AsyncClient, tmp_path: Path) -> str:
    """A Config whose model answers with what it sees."""
    bundle = bundle_text(provider=written_module(tmp_path, "provider", EYES))
    answer = await client.post("/configs", json={"name": "eyes", "yaml_content": bundle})
    assert answer.status_code == 201, answer.text
    return answer.json()["config_id"]


async def said(client: httpx2.AsyncClient, session_id: str, message: Any, **more: Any) -> str:
    answer = await client.post(f"/sessions/{session_id}/messages", json={"message": message, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["response"]


async def test_blocks_are_answered_and_kept_as_they_were_sent(client: httpx2.AsyncClient, session_id: str) -> None:
    assert await said(client, session_id, MESSAGE) == SEEN

    [first, _] = (await client.get(f"/sessions/{session_id}/messages")).json()["messages"]
    assert first["content"] == MESSAGE


async def test_a_stream_tells_of_an_image_its_type_and_size(
    client: httpx2.AsyncClient, session_id: str, frames_of: Callable[[str], list[Any]]
) -> None:
    answer = await client.post(f"/sessions/{session_id}/stream", json={"message": MESSAGE})

    assert PNG in answer.text  # the answer repeats what the model saw
    [told] = [frame.data for frame in frames_of(answer.text) if frame.type == "message.user"]
    assert told["content"] == [text("see"), SHOWN]


async def test_a_turn_that_is_asked_for_twice_with_one_key_sees_the_image_once(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    key = {"Idempotency-Key": "picture"}
    answers = [
        await client.post(f"/sessions/{session_id}/messages", json={"message": MESSAGE}, headers=key) for _ in range(2)
    ]
    other = await client.post(f"/sessions/{session_id}/messages", json={"message": [picture()]}, headers=key)

    assert [answer.json()["response"] for answer in answers] == [SEEN, SEEN]
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")
    assert (await client.get(f"/sessions/{session_id}")).json()["message_count"] == 1


@pytest.mark.parametrize(
    ("message", "pointer"),
    [
        ([], "/message"),
        (7, "/message"),
        ([text("see"), {"type": "audio"}], "/message/1"),
        ([picture("nonsense")], "/message/0/source"),
        ([linked("ftp://example.com/a")], "/message/0/source/url"),
    ],
)
async def test_blocks_that_no_provider_could_read_are_refused_at_their_place(
    client: httpx2.AsyncClient, session_id: str, message: Any, pointer: str
) -> None:
    for route in ("messages", "stream", "turns"):
        answer = await client.post(f"/sessions/{session_id}/{route}", json={"message": message})
        assert answer.status_code == 422, answer.text
        assert [each["pointer"] for each in answer.json()["errors"]] == [pointer]
    assert (await client.get(f"/sessions/{session_id}/messages")).json()["total"] == 0


async def test_an_image_cannot_steer(client: httpx2.AsyncClient, session_id: str) -> None:
    answer = await client.post(f"/sessions/{session_id}/turns", json={"message": MESSAGE, "when_busy": "steer"})

    assert (answer.status_code, "cannot steer" in answer.text) == (422, True)


async def test_a_message_larger_than_a_body_may_be_is_refused(
    client: httpx2.AsyncClient, session_id: str, services: Services
) -> None:
    message = [picture(PNG + "A" * services.settings.max_body_bytes)]
    answer = await client.post(f"/sessions/{session_id}/messages", json={"message": message})

    assert answer.status_code == 413


async def test_forks_and_imports_show_the_model_the_same_image(client: httpx2.AsyncClient, session_id: str) -> None:
    before = await said(client, session_id, MESSAGE, context={"page": 1})
    fork = (await client.post(f"/sessions/{session_id}/fork")).json()["session_id"]
    export = (await client.get(f"/sessions/{session_id}/export")).content
    headers = {"Content-Type": "application/x-ndjson"}
    loaded = await client.post("/sessions/import", content=export, headers=headers)
    assert loaded.status_code == 201, loaded.text

    for copy in (fork, loaded.json()["session_id"]):
        assert await said(client, copy, "and now?") == f"{before} / and now?"
        [first, *_] = (await client.get(f"/sessions/{copy}/messages")).json()["messages"]
        assert (first["content"], first["context"]) == (MESSAGE, {"page": 1})
