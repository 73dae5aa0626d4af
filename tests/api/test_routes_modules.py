"""`/modules`, as a client sees it."""

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from amplifier_app_api.app import create_app
from amplifier_app_api.modules import BUILTIN_MODULES
from amplifier_app_api.modules.schemas import schema_of
from amplifier_app_api.services import open_services
from amplifier_app_api.settings import Settings
from third_party import install

KEY = "sk-ant-from-the-environment"
MODELS = (
    b'{"data": [{"type": "model", "id": "claude-sonnet-5-5", "display_name": "Claude", '
    b'"created_at": "2026-01-01T00:00:00Z"}], "has_more": false, "first_id": null, "last_id": null}'
)
REFUSAL = b'{"type": "error", "error": {"type": "authentication_error", "message": "no such key: %s"}}' % KEY.encode()


def config_of(provider: str, **options: Any) -> str:
    lines = "".join(f"      {name}: {value}\n" for name, value in options.items())
    config = f"    config:\n{lines}" if options else ""
    return f"bundle:\n  name: c\nincludes:\n  - bundle: foundation\nproviders:\n  - module: {provider}\n{config}"


async def stored(client: httpx2.AsyncClient, text: str) -> str:
    answer = await client.post("/configs", json={"name": "c", "yaml_content": text})
    assert answer.status_code == 201, answer.text
    return answer.json()["config_id"]


@asynccontextmanager
async def serving(data_dir: Path, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a service with further settings."""
    async with open_services(Settings(data_dir=data_dir, default_config=False, **settings)) as services:
        transport = httpx2.ASGITransport(create_app(services=services))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client


@dataclass(frozen=True)
class Vendor:
    """A vendor's API that says one thing; `heads` are the requests it had."""

    address: str
    heads: list[str]


@asynccontextmanager
async def vendor(status: int, body: bytes) -> AsyncIterator[Vendor]:
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Vendor("http://{}:{}".format(*server.sockets[0].getsockname()), heads)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_every_module_is_listed_in_alphabetical_order(client: httpx2.AsyncClient) -> None:
    listed = (await client.get("/modules", params={"limit": 200})).json()

    ids = [module["id"] for module in listed["modules"]]
    assert ids == sorted(ids)
    assert {module["id"] for module in listed["modules"] if module["origin"] == "builtin"} == set(BUILTIN_MODULES)
    assert (listed["total"], listed["limit"], listed["offset"], listed["next_cursor"]) == (len(ids), 200, 0, None)


async def test_a_list_is_read_page_by_page(client: httpx2.AsyncClient) -> None:
    every = [module["id"] for module in (await client.get("/modules", params={"limit": 200})).json()["modules"]]
    found: list[str] = []
    cursor: dict[str, Any] = {}

    while True:
        page = (await client.get("/modules", params={"limit": 4, **cursor})).json()
        found += [module["id"] for module in page["modules"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}

    assert found == every
    skipped = (await client.get("/modules", params={"limit": 1, "offset": 2})).json()
    assert [module["id"] for module in skipped["modules"]] == every[2:3]


async def test_modules_of_one_kind_are_listed(client: httpx2.AsyncClient) -> None:
    listed = (await client.get("/modules", params={"kind": "orchestrator"})).json()

    assert [module["id"] for module in listed["modules"]] == ["loop-basic", "loop-streaming"]
    assert listed["total"] == 2


@pytest.mark.parametrize("query", [{"kind": "plugin"}, {"cursor": "x"}, {"limit": 0}])
async def test_a_list_nobody_can_make_is_refused(client: httpx2.AsyncClient, query: dict[str, Any]) -> None:
    assert (await client.get("/modules", params=query)).status_code == 422


async def test_a_module_is_told_with_the_schema_of_its_options(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/modules/provider-anthropic")).json() == {
        "id": "provider-anthropic",
        "kind": "provider",
        "origin": "builtin",
        "description": "Claude models through Anthropic's SDK",
        "extra": {"name": "anthropic", "installed": True},
        "options": schema_of("provider-anthropic"),
        "models": None,
    }


async def test_an_unknown_module_is_refused_with_those_that_may_have_been_meant(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/modules/provider-antropic")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["near"][0] == "provider-anthropic"
    assert answer.json()["detail"].startswith("There is no module 'provider-antropic'; did you mean provider-anthropic")
    assert (await client.get("/modules/zzz")).json()["detail"] == "There is no module 'zzz'."


async def test_an_installed_module_is_told_without_being_imported(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install("tool-compass", site)
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    loaded = set(sys.modules)

    async with serving(data_dir) as client:
        told = (await client.get("/modules/tool-compass")).json()
        tools = (await client.get("/modules", params={"kind": "tool"})).json()["modules"]

    assert (told["kind"], told["origin"], told["extra"], told["options"]) == ("tool", "installed", None, None)
    assert "tool-compass" in [module["id"] for module in tools]
    assert not {name for name in set(sys.modules) - loaded if name.startswith("amplifier_module_")}


async def test_a_provider_tells_its_models(client: httpx2.AsyncClient) -> None:
    told = (await client.get("/modules/provider-scripted", params={"models": "true"})).json()

    assert told["models"] == [
        {
            "id": "scripted",
            "display_name": "Scripted answers",
            "context_window": 200_000,
            "max_output_tokens": 8_192,
            "capabilities": ["streaming", "tools", "thinking"],
        }
    ]


async def test_a_vendor_is_asked_with_the_options_of_a_config(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)

    async with vendor(200, MODELS) as api, serving(data_dir, env_allow=["ANTHROPIC_API_KEY@127.0.0.1"]) as client:
        options = {"base_url": api.address, "api_key": "${ANTHROPIC_API_KEY}"}
        config_id = await stored(client, config_of("provider-anthropic", **options))
        query = {"models": "true", "config_id": config_id}
        told = (await client.get("/modules/provider-anthropic", params=query)).json()

    assert [model["id"] for model in told["models"]] == ["claude-sonnet-5-5"]
    (head,) = api.heads
    assert KEY in head


async def test_a_key_the_operator_keeps_is_not_sent(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)

    async with vendor(200, MODELS) as api, serving(data_dir) as client:
        options = {"base_url": api.address, "api_key": "${ANTHROPIC_API_KEY}"}
        config_id = await stored(client, config_of("provider-anthropic", **options))
        query = {"models": "true", "config_id": config_id}
        answer = await client.get("/modules/provider-anthropic", params=query)

    assert (answer.status_code, answer.json()["code"]) == (422, "config_not_runnable")
    assert [item["code"] for item in answer.json()["errors"]] == ["missing_variable"]
    assert api.heads == []


async def test_a_missing_key_is_told(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/modules/provider-anthropic", params={"models": "true"})

    assert (answer.status_code, answer.json()["code"]) == (422, "config_not_runnable")
    assert "provider-anthropic needs an api_key" in answer.json()["detail"]


async def test_a_missing_extra_is_told(client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("amplifier_app_api.modules.providers.anthropic")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anthropic", None)
    query = {"models": "true", "config_id": await stored(client, config_of("provider-anthropic", api_key="k"))}

    answer = await client.get("/modules/provider-anthropic", params=query)

    assert (answer.status_code, answer.json()["code"]) == (422, "config_not_runnable")
    assert "install amplifier-app-api[anthropic]" in answer.json()["detail"]


async def test_what_a_vendor_refuses_is_told_without_the_key(client: httpx2.AsyncClient) -> None:
    async with vendor(401, REFUSAL) as api:
        config_id = await stored(client, config_of("provider-anthropic", base_url=api.address, api_key=KEY))
        query = {"models": "true", "config_id": config_id}
        answer = await client.get("/modules/provider-anthropic", params=query)

    assert (answer.status_code, answer.json()["code"]) == (502, "provider_authentication")
    assert "no such key" in answer.json()["detail"]
    assert KEY not in answer.text


async def test_a_vendor_that_is_not_there_is_unavailable(client: httpx2.AsyncClient) -> None:
    async with vendor(200, b"") as api:
        pass
    query = {
        "models": "true",
        "config_id": await stored(client, config_of("provider-ollama", host=api.address, max_retries=0)),
    }

    answer = await client.get("/modules/provider-ollama", params=query)

    assert (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")


async def test_only_providers_have_models(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/modules/loop-basic", params={"models": "true"})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_config_that_does_not_name_the_provider_is_refused(client: httpx2.AsyncClient, config_id: str) -> None:
    query = {"models": "true", "config_id": config_id}

    answer = await client.get("/modules/provider-ollama", params=query)

    assert (answer.status_code, answer.json()["detail"]) == (422, "The config names no provider provider-ollama.")


async def test_a_config_that_is_not_there_is_not_found(client: httpx2.AsyncClient) -> None:
    query = {"models": "true", "config_id": "nowhere"}

    answer = await client.get("/modules/provider-scripted", params=query)

    assert (answer.status_code, answer.json()["code"]) == (404, "config_not_found")


async def test_nothing_is_left_of_asking(client: httpx2.AsyncClient, data_dir: Path, config_id: str) -> None:
    before = names_in(data_dir)

    await client.get("/modules/provider-scripted", params={"models": "true", "config_id": config_id})

    assert names_in(data_dir) == before
    assert (await client.get("/sessions")).json()["total"] == 0
