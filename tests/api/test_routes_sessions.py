"""`/sessions`, as a client sees it."""

import uuid

import httpx2
import pytest


async def test_a_session_says_which_revision_it_runs(client: httpx2.AsyncClient, config_id: str) -> None:
    created = await client.post("/sessions", json={"config_id": config_id, "title": "T", "tags": {"a": "b"}})

    session = created.json()
    assert created.status_code == 201
    assert created.headers["location"] == f"/sessions/{session['session_id']}"
    assert (session["config_id"], session["revision"]) == (config_id, 1)
    assert (session["status"], session["activity"], session["message_count"]) == ("active", "idle", 0)
    assert (session["title"], session["tags"]) == ("T", {"a": "b"})
    assert session["message"] == "Session created successfully"
    assert (await client.get(created.headers["location"])).json() == {**session, "message": None}


async def test_a_running_session_stays_on_its_revision(
    client: httpx2.AsyncClient, config_id: str, session_id: str
) -> None:
    await client.put(f"/configs/{config_id}", json={"yaml_content": "bundle:\n  name: later\n"})

    assert (await client.get(f"/sessions/{session_id}")).json()["revision"] == 1
    assert (await client.post(f"/sessions/{session_id}/messages", json={"message": "hi"})).status_code == 200


async def test_a_config_that_cannot_run_refuses_the_session_and_stores_nothing(client: httpx2.AsyncClient) -> None:
    stored = await client.post("/configs", json={"name": "half", "yaml_content": "bundle:\n  name: half\n"})

    refused = await client.post("/sessions", json={"config_id": stored.json()["config_id"]})

    assert (refused.status_code, refused.json()["code"]) == (422, "config_not_runnable")
    assert refused.json()["errors"]
    assert (await client.get("/sessions")).json()["total"] == 0


@pytest.mark.parametrize(("field", "code"), [("config_id", "config_not_found"), ("revision", "revision_not_found")])
async def test_a_session_of_what_is_not_there_is_404(
    client: httpx2.AsyncClient, config_id: str, field: str, code: str
) -> None:
    body = {"config_id": config_id} | {field: 9 if field == "revision" else str(uuid.uuid4())}

    refused = await client.post("/sessions", json=body)

    assert (refused.status_code, refused.json()["code"]) == (404, code)


async def test_sessions_are_filtered_and_counted(client: httpx2.AsyncClient, config_id: str) -> None:
    ids: list[str] = []
    for number in range(3):
        body = {"config_id": config_id, "tags": {"n": str(number)}}
        ids.append((await client.post("/sessions", json=body)).json()["session_id"])
    await client.patch(f"/sessions/{ids[1]}", json={"status": "completed"})

    async def found(**query: str) -> tuple[list[str], int]:
        page = (await client.get("/sessions", params=query)).json()
        return [session["session_id"] for session in page["sessions"]], page["total"]

    assert await found(limit="1") == ([ids[1]], 3)
    assert await found(status="completed") == ([ids[1]], 1)
    assert await found(tag="n=2") == ([ids[2]], 1)
    assert await found(config_id=config_id, offset="1") == ([ids[2], ids[0]], 3)
    assert await found(config_id="another") == ([], 0)


async def test_title_and_tags_change_by_merge_patch(client: httpx2.AsyncClient, session_id: str) -> None:
    path = f"/sessions/{session_id}"
    await client.patch(path, json={"title": "T", "tags": {"a": "1", "b": "2"}})

    changed = (await client.patch(path, json={"title": None, "tags": {"a": None}})).json()

    assert (changed["title"], changed["tags"]) == (None, {"b": "2"})


async def test_a_closed_session_takes_messages_again_when_it_is_resumed(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    path = f"/sessions/{session_id}"
    await client.patch(path, json={"status": "completed"})

    refused = await client.post(f"{path}/messages", json={"message": "hi"})
    assert (refused.status_code, refused.json()["code"]) == (409, "session_closed")

    resumed = await client.post(f"{path}/resume")
    assert (resumed.json()["status"], resumed.json()["message"]) == ("active", "Session resumed successfully")
    assert (await client.post(f"{path}/messages", json={"message": "hi"})).json()["response"] == "hi"


async def test_a_deleted_session_is_gone(client: httpx2.AsyncClient, session_id: str) -> None:
    path = f"/sessions/{session_id}"

    assert (await client.delete(path)).json() == {"message": "Session deleted successfully"}
    assert (await client.get(path)).status_code == 404
    assert (await client.delete(path)).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/resume"),
        ("GET", "/messages"),
        ("POST", "/messages"),
        ("POST", "/stream"),
        ("POST", "/cancel"),
        ("GET", "/events"),
    ],
)
@pytest.mark.parametrize("session_id", ["no-such-session", str(uuid.uuid4()), "%00", "x" * 3000])
async def test_an_unknown_session_is_404(client: httpx2.AsyncClient, method: str, path: str, session_id: str) -> None:
    body = {"message": "hi"} if method != "GET" else None

    answer = await client.request(method, f"/sessions/{session_id}{path}", json=body)

    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
