"""Around every request: its id, its log line, who may send it, and bodies within bounds."""

import logging
from collections.abc import AsyncIterator, Collection

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from amplifier_app_api.api.middleware import JsonBodies, LocalOnly, RequestLog


async def echo(request: Request) -> Response:
    body = await request.body()
    return JSONResponse({"size": len(body)})


def client_of(*, on_loopback: bool = True, origins: Collection[str] = (), limit: int = 100) -> httpx2.AsyncClient:
    app = Starlette(routes=[Route("/echo", echo, methods=["GET", "POST"])])
    app.add_middleware(JsonBodies, limit=limit)
    app.add_middleware(LocalOnly, on_loopback=on_loopback, origins=origins)
    app.add_middleware(RequestLog)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:8765")


async def test_a_request_keeps_the_id_it_came_with() -> None:
    answer = await client_of().get("/echo", headers={"X-Request-Id": "abc-123"})

    assert answer.headers["x-request-id"] == "abc-123"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("offered", ["", "x" * 129, "a b", 'quote"'])
async def test_a_request_without_a_sane_id_gets_one(offered: str) -> None:
    answer = await client_of().get("/echo", headers={"X-Request-Id": offered})

    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["x-request-id"].isalnum()


async def test_a_request_is_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "amplifier_app_api")

    await client_of().post("/echo?key=sk-secret", content=b"<a/>", headers={"Content-Type": "text/xml"})

    (line,) = caplog.records
    assert line.getMessage() == "request"
    fields = vars(line)
    assert [fields[name] for name in ("method", "path", "status", "code")] == [
        "POST",
        "/echo",
        415,
        "unsupported_media_type",
    ]


async def test_a_body_up_to_the_limit_is_taken_and_one_byte_more_is_413() -> None:
    client = client_of(limit=100)

    assert (await client.post("/echo", content=b"x" * 100)).json() == {"size": 100}
    refused = await client.post("/echo", content=b"x" * 101)
    assert (refused.status_code, refused.json()["code"], refused.json()["limit"]) == (413, "too_large", 100)


async def test_the_limit_holds_for_a_body_that_does_not_announce_its_size() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 50

    refused = await client_of(limit=1000).post("/echo", content=chunks())

    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert refused.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/merge-patch+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
async def test_only_json_is_read(content_type: str, status: int) -> None:
    answer = await client_of().post("/echo", content=b"{}", headers={"Content-Type": content_type})

    assert answer.status_code == status


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1:8765", "[::1]:8765"])
async def test_a_local_server_answers_to_local_names(host: str) -> None:
    assert (await client_of().get("/echo", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:1", "[", "10.0.0.1"]
)
async def test_a_local_server_does_not_answer_to_other_names(host: str) -> None:
    refused = await client_of().get("/echo", headers={"Host": host})

    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


async def test_an_allowed_origin_is_also_a_name_of_the_server() -> None:
    client = client_of(origins=["https://api.example.com"])

    assert (await client.get("/echo", headers={"Host": "api.example.com"})).status_code == 200


async def test_a_server_on_a_public_address_answers_to_any_name() -> None:
    assert (await client_of(on_loopback=False).get("/echo", headers={"Host": "api.example"})).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8765", 200),
        ("https://app.example.com", 200),
        ("https://evil.example", 403),
        ("http://127.0.0.1:3000", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
@pytest.mark.parametrize("on_loopback", [True, False])
async def test_another_web_page_cannot_change_anything(origin: str, status: int, on_loopback: bool) -> None:
    client = client_of(on_loopback=on_loopback, origins=["https://app.example.com"])

    assert (await client.post("/echo", headers={"Origin": origin})).status_code == status


async def test_reading_is_left_to_the_browsers_own_rules() -> None:
    assert (await client_of().get("/echo", headers={"Origin": "https://evil.example"})).status_code == 200


async def test_every_page_is_served_when_the_operator_says_so() -> None:
    answer = await client_of(origins=["*"]).post("/echo", headers={"Origin": "https://any.example"})

    assert answer.status_code == 200
