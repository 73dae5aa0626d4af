"""`/bundles`, as a client sees it."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from amplifier_app_api.services import Services, open_services
from amplifier_app_api.settings import Settings

URI = "git+https://github.com/our/tools@main"
SHARED = """\
bundle:
  name: shared
includes:
  - bundle: foundation
providers:
  - module: provider-scripted
    config:
      replies: [{reply}]
"""
USES_IT = "bundle:\n  name: mine\nincludes:\n  - bundle: shared\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder below which this server reads sources."""
    folder = tmp_path / "sources"
    folder.mkdir()
    return folder


@pytest.fixture
async def services(data_dir: Path, folder: Path) -> AsyncIterator[Services]:
    settings = Settings(data_dir=data_dir, default_config=False, source_roots=(folder,))
    async with open_services(settings) as opened:
        yield opened


async def register(
    client: httpx2.AsyncClient, name: str = "our-tools", uri: str = URI, **more: object
) -> httpx2.Response:
    return await client.post("/bundles", json={"name": name, "uri": uri, **more})


async def open_session(client: httpx2.AsyncClient, text: str = USES_IT) -> httpx2.Response:
    config = (await client.post("/configs", json={"name": "mine", "yaml_content": text})).json()
    return await client.post("/sessions", json={"config_id": config["config_id"]})


async def answer(client: httpx2.AsyncClient, text: str = USES_IT) -> str:
    """What a new session says first."""
    session = (await open_session(client, text)).json()
    said = await client.post(f"/sessions/{session['session_id']}/messages", json={"message": "hi"})
    return said.json()["response"]


async def test_a_name_is_registered_and_read_back(client: httpx2.AsyncClient) -> None:
    made = await register(client, description="what we use")

    assert made.status_code == 201
    assert made.headers["location"] == "/bundles/our-tools"
    bundle = made.json()
    assert bundle["message"] == "Bundle registered successfully"
    assert (bundle["name"], bundle["uri"], bundle["description"]) == ("our-tools", URI, "what we use")
    assert bundle["created_at"] == bundle["updated_at"]
    assert (await client.get("/bundles/our-tools")).json() == {**bundle, "message": None}


async def test_the_predecessors_body_is_taken_and_the_name_comes_from_the_last_part(client: httpx2.AsyncClient) -> None:
    made = await client.post("/bundles", json={"source": "git+https://github.com/our/tools.git@v1", "scope": "global"})

    assert (made.status_code, made.json()["name"]) == (201, "tools")
    assert made.json()["uri"] == "git+https://github.com/our/tools.git@v1"


async def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(client: httpx2.AsyncClient) -> None:
    first = (await register(client, description="old")).json()

    refused = await register(client)
    replaced = await client.post("/bundles?replace=true", json={"name": "our-tools", "uri": URI + "#subdirectory=b"})

    assert (refused.status_code, refused.json()["code"]) == (409, "bundle_exists")
    assert (replaced.status_code, replaced.json()["message"]) == (200, "Bundle replaced successfully")
    assert replaced.json()["uri"] == URI + "#subdirectory=b"
    assert replaced.json()["description"] is None
    assert replaced.json()["created_at"] == first["created_at"]
    assert replaced.json()["updated_at"] > first["updated_at"]


@pytest.mark.parametrize("query", ["", "?replace=true"])
async def test_a_built_in_name_cannot_be_taken(client: httpx2.AsyncClient, query: str) -> None:
    refused = await client.post(f"/bundles{query}", json={"name": "foundation", "uri": URI})

    assert (refused.status_code, refused.json()["code"]) == (409, "bundle_exists")


@pytest.mark.parametrize("name", ["a:b", "a/b", "../a", ".a", "", "a b", "a.md", "b.yaml", "git+a", "é", "x" * 101])
async def test_a_name_that_no_include_can_say_is_refused(client: httpx2.AsyncClient, name: str) -> None:
    refused = await register(client, name)

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert refused.json()["errors"][0]["pointer"] == "/name"


@pytest.mark.parametrize(
    "uri", ["./here", "../there", "here.md", "file://here", "foundation", "a:b", "C:\\here", "git+https://me:pw@host/a"]
)
async def test_a_uri_that_leads_nowhere_or_holds_a_password_is_refused(client: httpx2.AsyncClient, uri: str) -> None:
    refused = await register(client, uri=uri)

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert refused.json()["errors"][0]["pointer"] == "/uri"
    assert "pw" not in refused.text


async def test_without_a_uri_or_with_two_the_body_is_refused(client: httpx2.AsyncClient) -> None:
    without = await client.post("/bundles", json={"name": "a"})
    with_two = await client.post("/bundles", json={"name": "a", "uri": URI, "source": "/else"})

    assert (without.status_code, without.json()["errors"][0]["pointer"]) == (422, "/uri")
    assert (with_two.status_code, with_two.json()["errors"][0]["pointer"]) == (422, "/source")


async def test_a_uri_without_a_usable_last_part_needs_a_name(client: httpx2.AsyncClient) -> None:
    refused = await client.post("/bundles", json={"uri": "/a folder/with spaces"})

    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/name")


async def test_a_list_is_alphabetical_and_shows_what_is_built_in(client: httpx2.AsyncClient) -> None:
    for name in ("zebra", "ant"):
        await register(client, name)

    first = (await client.get("/bundles", params={"limit": 2})).json()
    rest = (await client.get("/bundles", params={"limit": 2, "cursor": first["next_cursor"]})).json()

    assert [(bundle["name"], bundle["builtin"]) for bundle in first["bundles"]] == [
        ("ant", False),
        ("foundation", True),
    ]
    assert [bundle["name"] for bundle in rest["bundles"]] == ["foundation-default", "zebra"]
    assert (first["total"], rest["total"], rest["next_cursor"]) == (4, 4, None)
    assert [b["name"] for b in (await client.get("/bundles", params={"offset": 3})).json()["bundles"]] == ["zebra"]
    wrong = await client.get("/bundles", params={"cursor": "e30="})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")


async def test_a_config_includes_a_registered_name(client: httpx2.AsyncClient, folder: Path) -> None:
    (folder / "shared.yaml").write_text(SHARED.format(reply="from the file"))
    await register(client, "shared", str(folder / "shared.yaml"))

    assert await answer(client) == "from the file"


async def test_a_replaced_name_leads_the_next_session_elsewhere(client: httpx2.AsyncClient, folder: Path) -> None:
    for number in (1, 2):
        (folder / f"{number}.yaml").write_text(SHARED.format(reply=f"number {number}"))
    await register(client, "shared", str(folder / "1.yaml"))
    first = await answer(client)

    await client.post("/bundles?replace=true", json={"name": "shared", "uri": str(folder / "2.yaml")})

    assert (first, await answer(client)) == ("number 1", "number 2")


async def test_a_deleted_name_is_not_found_by_the_configs_that_include_it(
    client: httpx2.AsyncClient, folder: Path
) -> None:
    (folder / "shared.yaml").write_text(SHARED.format(reply="hi"))
    await register(client, "shared", str(folder / "shared.yaml"))
    assert (await open_session(client)).status_code == 201

    deleted = await client.delete("/bundles/shared")
    refused = await open_session(client)

    assert deleted.status_code == 200
    assert "bundle_not_found" in deleted.json()["message"]
    assert (refused.status_code, refused.json()["code"]) == (422, "config_not_runnable")
    assert refused.json()["errors"][0]["code"] == "bundle_not_found"
    assert (await client.delete("/bundles/shared")).json()["code"] == "bundle_not_found"


async def test_a_built_in_bundle_stays(client: httpx2.AsyncClient) -> None:
    refused = await client.delete("/bundles/foundation")

    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert (await client.get("/bundles/foundation")).json()["builtin"] is True


async def test_a_refresh_says_what_the_name_leads_to_now(client: httpx2.AsyncClient, folder: Path) -> None:
    file = folder / "shared.yaml"
    file.write_text(SHARED.format(reply="old"))
    await register(client, "shared", str(file))
    before = (await client.post("/bundles/shared/refresh")).json()
    file.write_text(SHARED.format(reply="new"))

    after = (await client.post("/bundles/shared/refresh")).json()

    assert before["sha256"] == hashlib.sha256(SHARED.format(reply="old").encode()).hexdigest()
    assert after["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (after["name"], after["uri"], after["commit"], after["problems"]) == ("shared", str(file), None, [])
    assert await answer(client) == "new"


async def test_a_refresh_tells_the_problems_of_what_the_bundle_includes(
    client: httpx2.AsyncClient, folder: Path
) -> None:
    (folder / "shared.yaml").write_text("bundle: {name: shared}\nincludes: [{bundle: gone}]\n")
    await register(client, "shared", str(folder / "shared.yaml"))

    found = await client.post("/bundles/shared/refresh")

    assert found.status_code == 200
    assert [problem["code"] for problem in found.json()["problems"]] == ["bundle_not_found"]


async def test_a_refresh_of_what_cannot_be_read_says_why(client: httpx2.AsyncClient, folder: Path) -> None:
    await register(client, "gone", str(folder / "gone.yaml"))
    await register(client, "outside", "/etc/bundle.yaml")

    gone = await client.post("/bundles/gone/refresh")
    outside = await client.post("/bundles/outside/refresh")

    assert (gone.status_code, gone.json()["code"]) == (422, "bundle_unresolved")
    assert [item["code"] for item in gone.json()["errors"]] == ["bundle_not_found"]
    assert [item["code"] for item in outside.json()["errors"]] == ["source_not_allowed"]
    assert (await client.post("/bundles/nobody/refresh")).json()["code"] == "bundle_not_found"


async def test_a_built_in_bundle_can_be_refreshed_too(client: httpx2.AsyncClient) -> None:
    found = (await client.post("/bundles/foundation/refresh")).json()

    assert (found["uri"], found["commit"], len(found["sha256"])) == (None, None, 64)
