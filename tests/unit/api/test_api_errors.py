"""Every refusal is a problem document, and none repeats what it was given."""

from typing import Annotated

import httpx2
import pytest
from fastapi import FastAPI, Query
from pydantic import BaseModel, Field

from amplifier_app_api.api.errors import documented, install_error_handlers, pointer
from amplifier_app_api.api.middleware import RequestLog
from amplifier_app_api.api.openapi import install_openapi
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.errors import Conflict, ErrorItem, NotFound


class ThingBusy(Conflict):
    """The thing is in use."""

    code = "thing_busy"
    title = "Busy"

    def __init__(self, turn_id: str) -> None:
        super().__init__("It is in use.", facts={"turn_id": turn_id}, headers={"Retry-After": "1"})


class Thing(BaseModel):
    name: Annotated[str, Field(min_length=2)]
    parts: list[int] = []


def small_app() -> FastAPI:
    router = json_router(tag="things")

    @router.post("/things", responses=documented(ThingBusy, NotFound))
    async def create_thing(body: Thing) -> Thing:
        if body.name == "busy":
            raise ThingBusy("t-1")
        if body.name == "broken":
            raise RuntimeError("secret inside")
        if body.name == "many":
            raise NotFound("two things", items=[ErrorItem(code="a", detail="first", pointer="/x", line=3)])
        return body

    @router.get("/things")
    async def list_things(limit: Annotated[int, Query(ge=1)] = 1) -> int:
        return limit

    app = FastAPI(strict_content_type=False, redirect_slashes=False)
    app.include_router(router)
    app.add_middleware(RequestLog)
    install_error_handlers(app)
    install_openapi(app)
    return app


@pytest.fixture
def client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(small_app()), base_url="http://localhost")


async def test_an_error_of_ours_says_its_code_its_facts_and_its_headers(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/things", json={"name": "busy"}, headers={"X-Request-Id": "r-7"})

    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert answer.json() == {
        "type": "/errors/thing_busy",
        "title": "Busy",
        "status": 409,
        "detail": "It is in use.",
        "instance": "/things",
        "code": "thing_busy",
        "request_id": "r-7",
        "errors": [],
        "turn_id": "t-1",
    }


async def test_several_wrong_places_are_all_told(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/things", json={"name": "many"})

    assert answer.json()["errors"] == [{"code": "a", "pointer": "/x", "detail": "first", "line": 3, "column": None}]


async def test_a_bug_is_500_without_its_text(client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    answer = await client.post("/things", json={"name": "broken"})

    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
    assert "secret inside" in caplog.text


async def test_a_body_of_the_wrong_shape_is_422_with_pointers_and_without_its_values(
    client: httpx2.AsyncClient,
) -> None:
    answer = await client.post("/things", json={"name": "x", "parts": [1, "sk-secret"]})

    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"
    assert [item["pointer"] for item in answer.json()["errors"]] == ["/name", "/parts/1"]
    assert "sk-secret" not in answer.text


async def test_a_missing_body_is_422_at_its_root(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/things")

    assert answer.status_code == 422
    assert answer.json()["errors"][0] | {"detail": ""} == {
        "code": "missing",
        "pointer": "",
        "detail": "",
        "line": None,
        "column": None,
    }


async def test_a_wrong_parameter_is_422_and_named(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/things", params={"limit": "-1"})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/query/limit"


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        (b'{"name": "ab",\n  oops}', 2, 3),
        (b'{"name": NaN}', 1, 10),
        (b'{"name": "\\ud800"}', 1, 11),
        (b'{"name": "\xff"}', 1, 1),
        (b"[" * 100_000, 1, 1026),
    ],
)
async def test_broken_json_is_400_with_its_place(
    client: httpx2.AsyncClient, body: bytes, line: int, column: int
) -> None:
    answer = await client.post("/things", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_json"
    assert (answer.json()["errors"][0]["line"], answer.json()["errors"][0]["column"]) == (line, column)


async def test_a_path_that_nobody_answers_is_404(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/nothing")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_another_method_is_405_with_those_that_are_taken(client: httpx2.AsyncClient) -> None:
    answer = await client.delete("/things")

    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] in ("GET", "POST", "GET, POST")


async def test_a_body_without_a_type_is_taken_as_json(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/things", content=b'{"name": "ab"}')

    assert answer.json() == {"name": "ab", "parts": []}


def test_the_document_shows_every_refusal_with_our_schema() -> None:
    document = small_app().openapi()

    responses = document["paths"]["/things"]["post"]["responses"]
    conflict = responses["409"]["content"]["application/problem+json"]
    assert conflict["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert conflict["examples"]["thing_busy"]["value"]["type"] == "/errors/thing_busy"
    assert document["components"]["schemas"]["Problem"]["required"][:3] == ["type", "title", "status"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_a_pointer_escapes_what_pointers_use() -> None:
    assert pointer(("body", "a/b", "c~d", 0)) == "/a~1b/c~0d/0"
    assert pointer(("query", "limit")) == "/query/limit"
