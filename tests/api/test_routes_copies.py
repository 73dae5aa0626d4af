"""Forks, exports, imports, storage and pruning, as a client sees them."""

import hashlib
from typing import Any

import httpx2
import orjson
import pytest


async def say(client: httpx2.AsyncClient, session_id: str, text: str) -> dict[str, Any]:
    answer = await client.post(f"/sessions/{session_id}/messages", json={"message": text})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def transcript(client: httpx2.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/sessions/{session_id}?include=transcript")
    shown = ("role", "content", "tool_calls", "tool_call_id", "name", "metadata", "context", "interrupted")
    return [{name: message[name] for name in shown} for message in answer.json()["transcript"]]


async def export(client: httpx2.AsyncClient, session_id: str) -> bytes:
    answer = await client.get(f"/sessions/{session_id}/export")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return answer.content


async def load(client: httpx2.AsyncClient, body: bytes, query: str = "") -> httpx2.Response:
    headers = {"Content-Type": "application/x-ndjson"}
    return await client.post(f"/sessions/import{query}", content=body, headers=headers)


def records(body: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in body.splitlines()]


# Forks.


async def test_a_fork_begins_with_what_was_said_and_goes_its_own_way(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    for text in ("one", "two"):
        await say(client, session_id, text)

    forked = await client.post(f"/sessions/{session_id}/fork", json={"title": "another way"})
    copy = forked.json()
    before = await transcript(client, session_id)
    assert forked.status_code == 201
    assert forked.headers["location"] == f"/sessions/{copy['session_id']}"
    assert (copy["forked_from"], copy["title"], copy["message_count"]) == (session_id, "another way", 2)
    assert await transcript(client, copy["session_id"]) == before

    assert (await say(client, copy["session_id"], "three"))["response"] == "three"
    assert await transcript(client, session_id) == before
    assert [entry["content"] for entry in await transcript(client, copy["session_id"])][4] == "three"
    assert (await client.get(f"/sessions/{copy['session_id']}")).json()["message_count"] == 3


async def test_a_fork_ends_with_the_turn_that_is_named(client: httpx2.AsyncClient, session_id: str) -> None:
    first = await say(client, session_id, "one")
    await say(client, session_id, "two")

    forked = await client.post(f"/sessions/{session_id}/fork", json={"turn_id": first["turn_id"]})

    assert forked.json()["message_count"] == 1
    assert [entry["role"] for entry in await transcript(client, forked.json()["session_id"])] == ["user", "assistant"]


async def test_the_messages_of_a_fork_are_rows_of_its_own(client: httpx2.AsyncClient, session_id: str) -> None:
    await say(client, session_id, "one")
    copy = (await client.post(f"/sessions/{session_id}/fork")).json()["session_id"]

    mine = (await client.get(f"/sessions/{session_id}/messages")).json()["messages"]
    its = (await client.get(f"/sessions/{copy}/messages")).json()["messages"]

    assert {message["message_id"] for message in mine}.isdisjoint({message["message_id"] for message in its})
    assert [message["position"] for message in its] == [1, 2]
    assert (await client.delete(f"/sessions/{session_id}")).status_code == 200
    assert len((await client.get(f"/sessions/{copy}/messages")).json()["messages"]) == 2


async def test_a_fork_of_a_fork_counts_the_messages_of_both(client: httpx2.AsyncClient, session_id: str) -> None:
    await say(client, session_id, "one")
    child = (await client.post(f"/sessions/{session_id}/fork")).json()["session_id"]
    await say(client, child, "two")

    grandchild = (await client.post(f"/sessions/{child}/fork")).json()

    assert grandchild["message_count"] == 2
    assert len(await transcript(client, grandchild["session_id"])) == 4


async def test_its_log_says_where_a_fork_comes_from(client: httpx2.AsyncClient, session_id: str) -> None:
    copy = (await client.post(f"/sessions/{session_id}/fork")).json()["session_id"]
    lines = records(await export(client, copy))

    assert [line["event"]["forked_from"] for line in lines if line["type"] == "event"] == [session_id]


@pytest.mark.parametrize("turn_id", ["nobody", "\u00e9" * 200])
async def test_a_turn_that_is_not_there_cannot_be_forked_at(
    client: httpx2.AsyncClient, session_id: str, turn_id: str
) -> None:
    refused = await client.post(f"/sessions/{session_id}/fork", json={"turn_id": turn_id})

    assert (refused.status_code, refused.json()["code"]) == (404, "turn_not_found")
    assert (await client.get("/sessions")).json()["total"] == 1


async def test_a_turn_that_has_not_ended_cannot_be_forked_at(client: httpx2.AsyncClient, session_id: str) -> None:
    path = f"/sessions/{session_id}"
    slow = {"message": "[[slow: tokens=20000 delay_ms=5]]", "when_busy": "queue"}
    turns = [(await client.post(f"{path}/turns", json=slow)).json() for _ in range(2)]

    refused = [await client.post(f"{path}/fork", json={"turn_id": turn["turn_id"]}) for turn in turns]

    assert [turn["status"] for turn in turns] == ["running", "queued"]
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(409, "session_busy")] * 2
    assert [answer.json()["turn_id"] for answer in refused] == [turn["turn_id"] for turn in turns]
    for turn in reversed(turns):
        await client.post(f"{path}/turns/{turn['turn_id']}/cancel")


async def test_what_a_session_kept_sealed_opens_in_its_fork(client: httpx2.AsyncClient) -> None:
    text = (
        "bundle: {name: v}\nincludes: [{bundle: foundation}]\n"
        "providers:\n- module: provider-scripted\n  config:\n    api_key: '${SECRET_WORD}'\n"
        "    replies:\n    - '[[tool: write_file "
        """{"file_path": "a", "content": "${SECRET_WORD}"}]] [[then: done]]'\n    - again\n"""
    )
    config = (await client.post("/configs", json={"name": "v", "yaml_content": text})).json()["config_id"]
    body = {"config_id": config, "variables": {"SECRET_WORD": "hunter2-hunter2"}}
    session_id = (await client.post("/sessions", json=body)).json()["session_id"]
    assert (await say(client, session_id, "hi"))["response"] == "done"

    copy = (await client.post(f"/sessions/{session_id}/fork")).json()["session_id"]

    assert [entry["role"] for entry in await transcript(client, copy)] == ["user", "assistant", "tool", "assistant"]
    assert (await say(client, copy, "again"))["status"] == "completed"
    assert b"hunter2" not in await export(client, copy)


# Exports and imports.


async def test_an_import_gives_the_transcript_that_was_exported(client: httpx2.AsyncClient, session_id: str) -> None:
    await say(client, session_id, "one")
    await client.post(
        f"/sessions/{session_id}/messages", json={"message": "two", "context": {"file": "<a>", "line": 3}}
    )
    exported = await export(client, session_id)

    imported = await load(client, exported)

    assert imported.status_code == 201, imported.text
    copy = imported.json()["session_id"]
    assert imported.json()["message_count"] == 2
    assert await transcript(client, copy) == await transcript(client, session_id)
    assert records(await export(client, copy))[0]["transcript_sha256"] == records(exported)[0]["transcript_sha256"]
    assert (await say(client, copy, "three"))["response"] == "three"


async def test_a_session_whose_model_gave_a_tool_the_character_nul_can_be_taken_elsewhere(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    await say(client, session_id, r'[[tool: write_file {"file_path": "nul.bin", "content": "a\u0000b"}]]')

    imported = await load(client, await export(client, session_id))

    assert imported.status_code == 201, imported.text
    said = await transcript(client, imported.json()["session_id"])
    assert said == await transcript(client, session_id)
    assert said[1]["tool_calls"][0]["arguments"] == {"file_path": "nul.bin", "content": "a\0b"}
    assert (await say(client, imported.json()["session_id"], "two"))["response"] == "two"


async def test_an_import_finds_the_config_of_the_same_text_again(
    client: httpx2.AsyncClient, session_id: str, config_id: str
) -> None:
    await say(client, session_id, "one")
    exported = await export(client, session_id)
    await client.put(f"/configs/{config_id}", json={"yaml_content": "bundle:\n  name: later\n"})

    imported = await load(client, exported)

    assert (imported.json()["config_id"], imported.json()["revision"]) == (config_id, 1)
    assert (await client.get("/configs")).json()["total"] == 1


async def test_an_import_brings_its_config_where_there_is_none(
    client: httpx2.AsyncClient, session_id: str, config_id: str
) -> None:
    await say(client, session_id, "one")
    text = (await client.get(f"/configs/{config_id}")).json()["yaml_content"]
    exported = await export(client, session_id)
    await client.delete(f"/configs/{config_id}?cascade=true")

    imported = await load(client, exported)

    made = (await client.get(f"/configs/{imported.json()['config_id']}")).json()
    assert (made["name"], made["yaml_content"]) == ("scripted", text)


async def test_an_import_runs_the_config_that_is_named(
    client: httpx2.AsyncClient, session_id: str, config_id: str
) -> None:
    other = (await client.post("/configs", json={"name": "other", "yaml_content": "bundle: {name: o}\n"})).json()
    exported = await export(client, session_id)

    imported = await load(client, exported, f"?config_id={other['config_id']}")
    refused = await load(client, exported, "?config_id=nobody")

    assert imported.json()["config_id"] == other["config_id"]
    assert (refused.status_code, refused.json()["code"]) == (404, "config_not_found")


async def test_variables_put_into_an_export_are_sealed_with_the_new_session(client: httpx2.AsyncClient) -> None:
    text = (
        "bundle: {name: v}\nincludes: [{bundle: foundation}]\n"
        "providers:\n- module: provider-scripted\n  config: {replies: ['hello'], api_key: '${WORD}'}\n"
    )
    config = (await client.post("/configs", json={"name": "v", "yaml_content": text})).json()["config_id"]
    body = {"config_id": config, "variables": {"WORD": "hunter2-hunter2"}}
    session_id = (await client.post("/sessions", json=body)).json()["session_id"]
    exported = await export(client, session_id)
    assert b"hunter2" not in exported

    without = (await load(client, exported)).json()["session_id"]
    line = orjson.dumps({"type": "variables", "variables": {"WORD": "hunter2-hunter2"}}) + b"\n"
    with_them = (await load(client, line + exported)).json()["session_id"]

    refused = await client.post(f"/sessions/{without}/messages", json={"message": "hi"})
    assert (refused.status_code, [item["code"] for item in refused.json()["errors"]]) == (422, ["missing_variable"])
    assert (await say(client, with_them, "hi"))["response"] == "hello"


def _without_line(lines: list[bytes], number: int) -> bytes:
    return b"".join(lines[:number] + lines[number + 1 :])


async def test_an_export_that_was_cut_or_changed_is_refused_and_stores_nothing(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    await say(client, session_id, "one")
    exported = await export(client, session_id)
    lines = exported.splitlines(keepends=True)
    message = next(number for number, line in enumerate(lines) if b'"type":"message"' in line)
    changed = exported.replace(b'"content":"one"', b'"content":"two"')
    broken = {
        "empty": b"",
        "cut": b"".join(lines[:-1]),
        "without an event": _without_line(lines, len(lines) - 2),
        "without a message": _without_line(lines, message),
        "without its head": b"".join(lines[1:]),
        "changed": changed,
        "not JSON": exported.replace(b'{"type":"turn"', b'{"type":turn"'),
        "twice": exported + exported,
    }
    assert changed != exported

    answers = {name: await load(client, body) for name, body in broken.items()}

    assert {name: (answer.status_code, answer.json()["code"]) for name, answer in answers.items()} == dict.fromkeys(
        broken, (400, "invalid_document")
    )
    assert answers["not JSON"].json()["errors"][0]["line"] == 4
    assert (await client.get("/sessions")).json()["total"] == 1


async def test_a_line_of_the_wrong_shape_is_named(client: httpx2.AsyncClient, session_id: str) -> None:
    await say(client, session_id, "one")
    exported = (await export(client, session_id)).replace(b'"role":"user"', b'"role":"nobody"')

    refused = await load(client, exported)

    item = refused.json()["errors"][0]
    assert (refused.status_code, item["line"], item["pointer"]) == (400, 5, "/role")


def sealed_again(lines: list[dict[str, Any]]) -> bytes:
    """The lines of an export that somebody has changed, with the checksum that they have now."""
    entries = [line for line in lines if line["type"] == "message"]
    fields = ("role", "content", "tool_calls", "tool_call_id", "name", "metadata", "context", "interrupted")
    hashed = hashlib.sha256()
    for entry in entries:
        shown = {name: entry[name] for name in fields}
        hashed.update(orjson.dumps(shown, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))
    lines[0]["transcript_sha256"] = hashed.hexdigest()
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)


async def test_a_message_without_content_is_refused_with_its_line(client: httpx2.AsyncClient, session_id: str) -> None:
    await say(client, session_id, "one")
    lines = records(await export(client, session_id))
    number, message = next((n, line) for n, line in enumerate(lines, 1) if line["type"] == "message")
    message["content"] = None

    refused = await load(client, sealed_again(lines))

    item = refused.json()["errors"][0]
    assert (refused.status_code, item["line"], item["pointer"]) == (400, number, "/content")
    assert (await client.get("/sessions")).json()["total"] == 1


async def test_a_session_whose_counts_have_no_end_can_be_taken_elsewhere(
    client: httpx2.AsyncClient, session_id: str
) -> None:
    await say(client, session_id, "one")
    lines = records(await export(client, session_id))
    line, turn = lines[2], lines[3]
    line["usage"]["input_tokens"] = turn["number"] = 2**53  # the most that an import takes
    loaded = (await load(client, sealed_again(lines))).json()["session_id"]
    used = (await say(client, loaded, "two"))["usage"]

    exported = records(await export(client, loaded))

    assert exported[2]["usage"]["input_tokens"] == 2**53 + used["input_tokens"]
    assert [line["number"] for line in exported if line["type"] == "turn"] == [2**53, 2**53 + 1]
    assert exported[-1] == {"type": "end", "records": len(exported) - 1}


async def test_an_export_tells_the_log_as_it_is(client: httpx2.AsyncClient, session_id: str) -> None:
    await say(client, session_id, "one")

    events = [line["event"] for line in records(await export(client, session_id)) if line["type"] == "event"]

    last = (await client.get(f"/sessions/{session_id}")).json()["last_seq"]
    assert [event["seq"] for event in events] == list(range(1, last + 1))
    assert events[-1]["type"] == "turn.completed"


@pytest.mark.parametrize("action", ["fork", "prune"])
async def test_what_is_not_there_cannot_be_worked_on(client: httpx2.AsyncClient, action: str) -> None:
    answers = [
        await client.post(f"/sessions/nobody/{action}", json={"up_to": 1}),
        await client.get("/sessions/nobody/export"),
        await client.get("/sessions/nobody/storage"),
    ]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "session_not_found")] * 3


async def test_a_fork_and_an_import_with_a_key_are_made_once(client: httpx2.AsyncClient, session_id: str) -> None:
    await say(client, session_id, "one")
    exported = await export(client, session_id)
    key = {"Idempotency-Key": "k"}
    lines = {**key, "Content-Type": "application/x-ndjson"}

    forks = [await client.post(f"/sessions/{session_id}/fork", json={}, headers=key) for _ in range(2)]
    imports = [await client.post("/sessions/import", content=exported, headers=lines) for _ in range(2)]

    assert [answer.status_code for answer in forks + imports] == [201] * 4
    assert forks[0].json() == forks[1].json()
    assert imports[0].json() == imports[1].json()
    assert [answer.headers.get("idempotency-replayed") for answer in forks + imports] == [None, "true"] * 2
    assert (await client.get("/sessions")).json()["total"] == 3


# Storage.


async def test_the_storage_report_counts_rows_and_files(client: httpx2.AsyncClient, session_id: str) -> None:
    await say(client, session_id, "hello")
    report = (await client.get(f"/sessions/{session_id}/storage")).json()

    assert report["rows"]["messages"]["rows"] == 2
    assert report["rows"]["turns"]["rows"] == 1
    assert report["rows"]["events"]["rows"] == report["last_seq"]
    assert report["rows"]["deltas"] == {"rows": 0, "bytes": 0}
    assert report["files"] == {"files": 0, "bytes": 0, "complete": True}
    assert report["oldest_seq"] == 1
    assert report["total_bytes"] == sum(kind["bytes"] for kind in report["rows"].values()) > 0


async def test_pruned_events_are_gone_and_the_transcript_stays(client: httpx2.AsyncClient, session_id: str) -> None:
    await say(client, session_id, "one")
    before = await transcript(client, session_id)
    last = (await client.get(f"/sessions/{session_id}")).json()["last_seq"]

    pruned = (await client.post(f"/sessions/{session_id}/prune", json={"up_to": last - 1})).json()
    again = (await client.post(f"/sessions/{session_id}/prune", json={"up_to": last - 1})).json()

    assert pruned == {"session_id": session_id, "pruned_events": last - 1, "oldest_seq": last}
    assert again == {"session_id": session_id, "pruned_events": 0, "oldest_seq": last}
    assert await transcript(client, session_id) == before
    await say(client, session_id, "two")
    events = [line["event"]["seq"] for line in records(await export(client, session_id)) if line["type"] == "event"]
    assert events == list(range(last, (await client.get(f"/sessions/{session_id}")).json()["last_seq"] + 1))


async def test_everything_older_than_now_may_be_pruned(client: httpx2.AsyncClient, session_id: str) -> None:
    await say(client, session_id, "one")
    last = (await client.get(f"/sessions/{session_id}")).json()["last_seq"]

    pruned = (await client.post(f"/sessions/{session_id}/prune", json={"older_than": 0})).json()
    kept = (await client.post(f"/sessions/{session_id}/prune", json={"older_than": 3600})).json()

    assert (pruned["pruned_events"], pruned["oldest_seq"]) == (last, last + 1)
    assert (kept["pruned_events"], kept["oldest_seq"]) == (0, last + 1)


@pytest.mark.parametrize("body", [{}, {"up_to": 1, "older_than": 1}, {"up_to": 0}, {"older_than": -1}])
async def test_a_prune_says_what_by_one_of_two_ways(
    client: httpx2.AsyncClient, session_id: str, body: dict[str, Any]
) -> None:
    refused = await client.post(f"/sessions/{session_id}/prune", json=body)

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


def test_the_checksum_is_over_sorted_lines_of_what_was_said() -> None:
    from amplifier_app_api.models.transfer import MessageRecord, TranscriptHash

    message = MessageRecord.model_validate(
        {"message_id": "m", "role": "user", "content": "hi", "created_at": "2026-01-01T00:00:00.000000Z"}
    )
    line = (
        b'{"content":"hi","context":null,"interrupted":false,"metadata":{},"name":null,"role":"user",'
        b'"tool_call_id":null,"tool_calls":null}\n'
    )
    assert TranscriptHash([message]).hexdigest() == hashlib.sha256(line).hexdigest()
