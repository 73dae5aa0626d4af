"""Whatever comes in, a problem document goes out, and the service is as healthy as before."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from amplifier_app_api.app import create_app
from amplifier_app_api.services import open_services
from amplifier_app_api.settings import Settings

JSON = {"Content-Type": "application/json"}
MERGE_BOMB = "bundle: {name: b}\na: &a {k: 1}\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{', '.join(['*' + chr(97 + n)] * 9)}]}}\n" for n in range(9)
)


@pytest.fixture(autouse=True)
async def healthy_afterwards(client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    yield
    assert (await client.get("/health")).json()["status"] == "healthy"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def assert_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"/errors/{code}")
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"name": "a", "yaml_content": NaN}',
        b'{"name": "\\ud800", "yaml_content": "x"}',
        b'{"name": "\xff"}',
        b"[" * 200_000,
        b"\x00",
    ],
)
async def test_what_is_not_json_is_400(client: httpx2.AsyncClient, body: bytes) -> None:
    assert_problem(await client.post("/configs", content=body, headers=JSON), 400, "invalid_json")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": 1}, "/name"),
        ({"name": ""}, "/name"),
        ({"name": "   "}, "/name"),
        ({"name": "a\u0000b"}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"yaml_content": None}, "/yaml_content"),
        ({"yaml_content": {"bundle": {}}}, "/yaml_content"),
        ({"yaml_content": "bundle: {name: a}\u0000"}, "/yaml_content"),
        ({"tags": {"a": 1}}, "/tags/a"),
        ({"tags": ["a"]}, "/tags"),
        ({"description": []}, "/description"),
    ],
)
async def test_a_wrong_field_of_a_config_is_422_and_named(
    client: httpx2.AsyncClient, fields: dict[str, object], pointer: str
) -> None:
    body = {"name": "a", "yaml_content": "bundle:\n  name: a\n"} | fields

    problem = assert_problem(await client.post("/configs", json=body), 422, "invalid_request")

    assert [item["pointer"] for item in problem["errors"]] == [pointer]


@pytest.mark.parametrize("body", ["[]", "null", '"text"', "1"])
@pytest.mark.parametrize("path", ["/configs", "/sessions"])
async def test_a_body_that_is_no_object_is_422(client: httpx2.AsyncClient, path: str, body: str) -> None:
    assert_problem(await client.post(path, content=body, headers=JSON), 422, "invalid_request")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("bundle: [", "invalid_yaml"),
        ("bundle: {name: a}\nbundle: {name: b}\n", "invalid_yaml"),
        ("- a\n", "invalid_yaml"),
        ("", "invalid_document"),
        ("bundle: {}\n", "invalid_document"),
        ("bundle: {name: a}\ntools: {a: b}\n", "invalid_document"),
        ("bundle: {name: a}\nincludes: [{bundle: ./other.md}]\n", "relative_reference"),
        ("bundle: {name: a}\nx:\n  " + "- " * 50_000, "document_too_complex"),
        ("bundle: {name: a}\nx: " + "[" * 100_000, "document_too_complex"),
        (MERGE_BOMB, "document_too_complex"),
    ],
)
async def test_a_text_that_cannot_be_stored_is_400(client: httpx2.AsyncClient, text: str, code: str) -> None:
    answer = await client.post("/configs", json={"name": "a", "yaml_content": text})

    assert_problem(answer, 400, answer.json()["code"])
    assert answer.json()["code"] == code
    assert (await client.get("/configs")).json()["total"] == 0


@pytest.mark.parametrize("path", ["/configs", "/sessions"])
@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=201",
        "limit=1e3",
        "limit=" + "9" * 40,
        "limit=x",
        "offset=-1",
        "offset=" + "9" * 40,
        "cursor=%00",
        "cursor=bm9wZQ==",
        "cursor=%E2%82%AC",
        "tag=novalue",
        "tag=a%00=b",
    ],
)
async def test_an_absurd_page_is_422(client: httpx2.AsyncClient, path: str, query: str) -> None:
    name = query.partition("=")[0]

    problem = assert_problem(await client.get(f"{path}?{query}"), 422, "invalid_request")

    assert [item["pointer"] for item in problem["errors"]] == [f"/query/{name}"]


@pytest.mark.parametrize("query", ["status=asleep", "config_id=%00"])
async def test_an_absurd_filter_is_422(client: httpx2.AsyncClient, query: str) -> None:
    assert_problem(await client.get(f"/sessions?{query}"), 422, "invalid_request")


async def test_a_far_offset_is_an_empty_page(client: httpx2.AsyncClient, config_id: str) -> None:
    page = (await client.get("/configs", params={"offset": 2**40})).json()

    assert (page["configs"], page["total"]) == ([], 1)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/message"),
        ({"message": ""}, "/message"),
        ({"message": 7}, "/message"),
        ({"message": "a\u0000"}, "/message"),
        ({"message": "x" * 1_000_001}, "/message"),
        ({"message": "a", "context": []}, "/context"),
        ({"message": "a", "context": {"k": "\u0000"}}, "/context"),
        ({"message": "a", "when_busy": "panic"}, "/when_busy"),
    ],
)
@pytest.mark.parametrize("route", ["messages", "stream"])
async def test_a_wrong_message_is_422_and_no_turn(
    client: httpx2.AsyncClient, session_id: str, route: str, body: dict[str, object], pointer: str
) -> None:
    problem = assert_problem(await client.post(f"/sessions/{session_id}/{route}", json=body), 422, "invalid_request")

    assert [item["pointer"] for item in problem["errors"]] == [pointer]
    assert (await client.get(f"/sessions/{session_id}")).json()["message_count"] == 0


@pytest.mark.parametrize(
    ("fields", "code", "status"),
    [
        ({"revision": 0}, "invalid_request", 422),
        ({"revision": 2**63}, "invalid_request", 422),
        ({"working_dir": "../../etc"}, "invalid_request", 422),
        ({"working_dir": "/etc"}, "invalid_request", 422),
        ({"working_dir": "x" * 300}, "invalid_request", 422),
        ({"working_dir": "é" * 150}, "invalid_request", 422),
        ({"variables": {"A": 1}}, "invalid_request", 422),
        ({"config_id": "a\u0000"}, "invalid_request", 422),
        ({"allow_missing": "perhaps"}, "invalid_request", 422),
        ({"config_id": "unknown"}, "config_not_found", 404),
    ],
)
async def test_a_session_that_cannot_be_is_refused(
    client: httpx2.AsyncClient, config_id: str, fields: dict[str, object], code: str, status: int
) -> None:
    assert_problem(await client.post("/sessions", json={"config_id": config_id} | fields), status, code)


@pytest.mark.parametrize(
    ("below", "detail"),
    [
        ("plan.md", "is a file"),
        ("plan.md/sub", "cannot be a folder: Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
async def test_a_working_directory_that_no_folder_can_be_is_refused_for_a_session_and_for_a_fork(
    client: httpx2.AsyncClient, config_id: str, below: str, detail: str
) -> None:
    session_id = (await client.post("/sessions", json={"config_id": config_id})).json()["session_id"]
    script = '[[tool: write_file {"file_path": "plan.md", "content": "a plan"}]] [[then: written]]'
    written = await client.post(f"/sessions/{session_id}/messages", json={"message": script})
    assert written.json()["response"] == "written"
    where = {"working_dir": f"{session_id}/{below}"}

    opened = await client.post("/sessions", json={"config_id": config_id, **where})
    forked = await client.post(f"/sessions/{session_id}/fork", json=where)

    for refusal in (opened, forked):
        (item,) = assert_problem(refusal, 422, "invalid_request")["errors"]
        assert (item["pointer"], item["detail"][-len(detail) :]) == ("/working_dir", detail)
    assert len((await client.get("/sessions")).json()["sessions"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/configs/{config_id}/revert", {"revision": True}, "/revision"),
        ("/sessions", {"config_id": "{config_id}", "revision": True}, "/revision"),
        ("/sessions", {"config_id": "{config_id}", "budget": {"tokens": True}}, "/budget/tokens"),
        ("/sessions/{session_id}/upgrade", {"revision": True}, "/revision"),
        ("/sessions/{session_id}/prune", {"up_to": True}, "/up_to"),
        ("/sessions/{session_id}/prune", {"older_than": False}, "/older_than"),
        ("/sessions/{session_id}/turns", {"message": "a", "budget": {"seconds": True}}, "/budget/seconds"),
        ("/sessions/{session_id}/turns", {"message": "a", "budget": {"cost_usd": True}}, "/budget/cost_usd"),
        ("/sessions/{session_id}/fork", {"budget": {"tool_calls": False}}, "/budget/tool_calls"),
        ("/sessions/{session_id}/fork", {"budget": {"iterations": True}}, "/budget/iterations"),
    ],
)
async def test_true_and_false_are_no_numbers(
    client: httpx2.AsyncClient, config_id: str, session_id: str, path: str, body: dict[str, object], pointer: str
) -> None:
    asked = {key: config_id if value == "{config_id}" else value for key, value in body.items()}

    answer = await client.post(path.format(config_id=config_id, session_id=session_id), json=asked)

    problem = assert_problem(answer, 422, "invalid_request")
    assert [(item["code"], item["pointer"]) for item in problem["errors"]] == [("invalid_value", pointer)]


async def test_a_bundle_with_an_unknown_module_names_it(client: httpx2.AsyncClient) -> None:
    text = (
        "bundle: {name: a}\nincludes: [{bundle: foundation}]\n"
        "providers: [{module: provider-scripted}]\ntools: [{module: tool-nobody-wrote}]\n"
    )
    stored = (await client.post("/configs", json={"name": "a", "yaml_content": text})).json()

    problem = assert_problem(
        await client.post("/sessions", json={"config_id": stored["config_id"]}), 422, "config_not_runnable"
    )

    assert [item["code"] for item in problem["errors"]] == ["module_not_found"]
    assert "tool-nobody-wrote" in problem["errors"][0]["detail"]


async def test_a_missing_variable_names_its_place(client: httpx2.AsyncClient) -> None:
    text = (
        "bundle: {name: a}\nincludes: [{bundle: foundation}]\n"
        "providers: [{module: provider-scripted, config: {token: '${NOT_SET}'}}]\n"
    )
    stored = (await client.post("/configs", json={"name": "a", "yaml_content": text})).json()
    body = {"config_id": stored["config_id"]}

    problem = assert_problem(await client.post("/sessions", json=body), 422, "config_not_runnable")

    assert [item["code"] for item in problem["errors"]] == ["missing_variable"]
    assert (await client.post("/sessions", json={**body, "variables": {"NOT_SET": "x"}})).status_code == 201


async def test_a_body_beyond_the_limit_is_413(client: httpx2.AsyncClient) -> None:
    body = b'{"name": "a", "yaml_content": "' + b"x" * (4 * 2**20) + b'"}'

    assert_problem(await client.post("/configs", content=body, headers=JSON), 413, "too_large")


async def test_a_body_of_another_type_is_415(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/configs", content=b"name=a", headers={"Content-Type": "text/plain"})

    assert_problem(answer, 415, "unsupported_media_type")


async def test_another_site_cannot_store_anything(client: httpx2.AsyncClient) -> None:
    body = {"name": "a", "yaml_content": "bundle:\n  name: a\n"}

    assert_problem(
        await client.post("/configs", json=body, headers={"Origin": "https://evil.example"}), 403, "forbidden"
    )
    assert_problem(await client.get("/configs", headers={"Host": "evil.example"}), 403, "forbidden")
    assert (await client.get("/configs")).json()["total"] == 0


async def test_unknown_paths_and_methods_are_problems_too(client: httpx2.AsyncClient) -> None:
    assert_problem(await client.get("/nothing/here"), 404, "not_found")
    assert_problem(await client.get("/configs/"), 404, "not_found")
    assert_problem(await client.put("/sessions"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/configs", "GET, POST"),
        ("/configs/{config_id}", "DELETE, GET, PATCH, PUT"),
        # `plan` is a route of its own for POST, and the id of a Config for all others.
        ("/configs/plan", "DELETE, GET, PATCH, POST, PUT"),
        ("/bundles/{name}", "DELETE, GET"),
        ("/sessions/x/events", "GET"),
        ("/sessions/x/approvals/y", "GET, POST"),
        ("/openapi.json", "GET, HEAD"),
        ("/docs", "GET"),
    ],
)
async def test_allow_names_every_method_of_a_path(client: httpx2.AsyncClient, path: str, methods: str) -> None:
    refused = await client.request("TRACE", path)

    assert assert_problem(refused, 405, "method_not_allowed")["detail"] == f"This path takes {methods}"
    assert refused.headers["allow"] == methods


async def test_a_wrong_name_in_a_mapping_is_pointed_at_by_its_place(client: httpx2.AsyncClient) -> None:
    body = {"config_id": "x", "variables": {"": "a"}, "tags": {"[key]": 1}}

    problem = assert_problem(await client.post("/sessions", json=body), 422, "invalid_request")

    assert [item["pointer"] for item in problem["errors"]] == ["/variables/", "/tags/[key]"]


async def test_an_allowed_page_may_ask_and_read(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "other", allowed_origins=("https://app.example.com",))
    async with open_services(settings) as services:
        transport = httpx2.ASGITransport(create_app(services=services))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            origin = {"Origin": "https://app.example.com"}
            preflight = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "if-match"}
            asked = await client.options("/configs/x", headers=origin | preflight)
            read = await client.get("/configs", headers=origin)

    assert asked.status_code == 200
    assert read.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "ETag" in read.headers["access-control-expose-headers"]


async def test_an_app_made_from_settings_opens_and_closes_what_it_needs(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path / "own"))

    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        assert (await client.get("/configs")).json()["total"] == 1

    async with open_services(Settings(data_dir=tmp_path / "own")) as services:
        assert services.ready
