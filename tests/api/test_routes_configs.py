"""`/configs`, as a client sees it."""

import asyncio
import uuid

import httpx2
import pytest

from amplifier_app_api.services import Services

TEXT = "# kept\nbundle:\n  name: dev   # this too\n"


async def create(client: httpx2.AsyncClient, name: str = "dev", **fields: object) -> httpx2.Response:
    return await client.post("/configs", json={"name": name, "yaml_content": TEXT, **fields})


async def test_a_config_is_stored_byte_for_byte(client: httpx2.AsyncClient) -> None:
    created = await create(client, description="for work", tags={"env": "dev"})

    assert created.status_code == 201
    config = created.json()
    assert created.headers["location"] == f"/configs/{config['config_id']}"
    assert created.headers["etag"] == '"1.1"'
    assert config["message"] == "Config created successfully"
    read = await client.get(created.headers["location"])
    assert read.json() == {**config, "message": None}
    assert read.json()["yaml_content"] == TEXT
    assert uuid.UUID(config["config_id"]).version == 4


async def test_a_list_is_newest_change_first_with_the_total_of_all(client: httpx2.AsyncClient) -> None:
    ids = [(await create(client, f"c{number}")).json()["config_id"] for number in range(3)]
    await client.put(f"/configs/{ids[0]}", json={"description": "touched"})

    page = (await client.get("/configs", params={"limit": 2})).json()

    assert [config["config_id"] for config in page["configs"]] == [ids[0], ids[2]]
    assert (page["total"], page["limit"], page["offset"]) == (3, 2, 0)
    assert "yaml_content" not in page["configs"][0]
    rest = (await client.get("/configs", params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert [config["config_id"] for config in rest["configs"]] == [ids[1]]
    assert rest["next_cursor"] is None


async def test_a_list_is_filtered_by_name_and_tag(client: httpx2.AsyncClient) -> None:
    await create(client, "one", tags={"env": "dev"})
    await create(client, "two", tags={"env": "a=b"})

    named = (await client.get("/configs", params={"name": "one"})).json()
    tagged = (await client.get("/configs", params={"tag": "env=a=b"})).json()

    assert [config["name"] for config in named["configs"]] == ["one"]
    assert ([config["name"] for config in tagged["configs"]], tagged["total"]) == (["two"], 1)


async def test_put_leaves_what_is_absent_or_null(client: httpx2.AsyncClient) -> None:
    path = (await create(client, description="d", tags={"a": "1"})).headers["location"]

    changed = (await client.put(path, json={"name": "new", "description": None})).json()

    assert (changed["name"], changed["description"], changed["tags"]) == ("new", "d", {"a": "1"})
    assert changed["message"] == "Config updated successfully"
    assert (await client.put(path, json={"tags": {}})).json()["tags"] == {}


async def test_patch_clears_what_is_null(client: httpx2.AsyncClient) -> None:
    path = (await create(client, description="d", tags={"a": "1", "b": "2"})).headers["location"]

    patch = b'{"description": null, "tags": {"a": null, "c": "3"}}'
    changed = await client.patch(path, content=patch, headers={"Content-Type": "application/merge-patch+json"})

    assert changed.json()["description"] is None
    assert changed.json()["tags"] == {"b": "2", "c": "3"}


async def test_a_change_of_a_state_that_is_gone_is_412(client: httpx2.AsyncClient) -> None:
    created = await create(client)
    path, stale = created.headers["location"], {"If-Match": created.headers["etag"]}
    fresh = {"If-Match": (await client.put(path, json={"name": "b"}, headers=stale)).headers["etag"]}

    for refused in (
        await client.put(path, json={"name": "c"}, headers=stale),
        await client.patch(path, json={"name": "c"}, headers=stale),
        await client.delete(path, headers=stale),
        await client.post(f"{path}/tools", json={"module": "tool-filesystem"}, headers=stale),
        await client.post(f"{path}/revert", json={"revision": 1}, headers=stale),
    ):
        assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")
    assert (await client.delete(path, headers=fresh)).json() == {"message": "Config deleted successfully"}


async def test_what_was_read_before_is_not_sent_again(client: httpx2.AsyncClient) -> None:
    created = await create(client)
    path, etag = created.headers["location"], created.headers["etag"]

    unchanged = await client.get(path, headers={"If-None-Match": f'"9.9", W/{etag}'})

    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    assert (await client.get(path, headers={"If-None-Match": '"9.9"'})).status_code == 200


async def test_helpers_take_json_and_keep_comments(client: httpx2.AsyncClient) -> None:
    path = (await create(client)).headers["location"]

    tool = await client.post(f"{path}/tools", json={"module": "tool-filesystem", "config": {"write": False}})
    provider = await client.post(f"{path}/providers", json={"module": "provider-scripted"})
    include = await client.post(f"{path}/bundles", json={"bundle_uri": "foundation"})

    assert [answer.json()["message"] for answer in (tool, provider, include)] == [
        "Tool added to config successfully",
        "Provider added to config successfully",
        "Bundle merged into config successfully",
    ]
    assert include.json()["edit"] == "inserted"
    assert include.headers["etag"] == '"4.4"'
    assert include.json()["yaml_content"] == TEXT + (
        "tools:\n  - module: tool-filesystem\n    config:\n      write: false\n"
        "providers:\n  - module: provider-scripted\n"
        "includes:\n  - bundle: foundation\n"
    )


async def test_helpers_take_the_predecessors_query_with_the_options_as_body(client: httpx2.AsyncClient) -> None:
    path = (await create(client)).headers["location"]

    await client.post(f"{path}/tools", params={"tool_module": "a", "tool_source": "git+https://x/y"}, json={"k": 1})
    await client.post(f"{path}/providers", params={"provider_module": "p"})
    last = await client.post(f"{path}/bundles", params={"bundle_uri": "foundation"})

    assert last.json()["yaml_content"] == TEXT + (
        "tools:\n  - module: a\n    source: git+https://x/y\n    config:\n      k: 1\n"
        "providers:\n  - module: p\n"
        "includes:\n  - bundle: foundation\n"
    )


async def test_a_module_that_is_there_is_409_and_merged_when_asked(client: httpx2.AsyncClient) -> None:
    path = (await create(client)).headers["location"]
    await client.post(f"{path}/tools", json={"module": "a"})

    refused = await client.post(f"{path}/tools", json={"module": "a", "config": {"k": 1}})
    merged = await client.post(f"{path}/tools?replace=true", json={"module": "a", "config": {"k": 1}})

    assert (refused.status_code, refused.json()["code"]) == (409, "module_exists")
    assert merged.json()["yaml_content"] == TEXT + "tools:\n  - module: a\n    config:\n      k: 1\n"


async def test_no_edit_is_lost_when_many_come_at_once(client: httpx2.AsyncClient) -> None:
    path = (await create(client)).headers["location"]

    answers = await asyncio.gather(*(client.post(f"{path}/tools", json={"module": f"t{n}"}) for n in range(20)))

    assert {answer.status_code for answer in answers} == {200}
    text = (await client.get(path)).json()["yaml_content"]
    assert sorted(line for line in text.splitlines() if "module:" in line) == sorted(
        f"  - module: t{number}" for number in range(20)
    )


async def test_every_text_is_a_revision_and_there_is_a_way_back(client: httpx2.AsyncClient) -> None:
    path = (await create(client)).headers["location"]
    await client.put(path, json={"yaml_content": "bundle:\n  name: second\n"})

    listed = (await client.get(f"{path}/revisions")).json()
    assert [revision["revision"] for revision in listed["revisions"]] == [2, 1]
    assert (await client.get(f"{path}/revisions/1")).json()["yaml_content"] == TEXT

    back = await client.post(f"{path}/revert", json={"revision": 1})
    assert (back.json()["revision"], back.json()["yaml_content"]) == (3, TEXT)
    unknown = await client.post(f"{path}/revert", json={"revision": 9})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "revision_not_found")


async def test_a_config_in_use_is_kept_until_told_otherwise(
    client: httpx2.AsyncClient, services: Services, config_id: str, session_id: str
) -> None:
    refused = await client.delete(f"/configs/{config_id}")
    assert (refused.status_code, refused.json()["code"], refused.json()["sessions"]) == (409, "config_in_use", 1)

    folder = services.settings.data_dir / "workspaces" / "default" / session_id
    assert folder.is_dir()
    deleted = await client.delete(f"/configs/{config_id}", params={"cascade": "true"})
    assert not folder.exists()
    assert deleted.status_code == 200
    assert (await client.get(f"/sessions/{session_id}")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PUT", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/tools"),
        ("POST", "/providers"),
        ("POST", "/bundles"),
        ("GET", "/revisions"),
        ("GET", "/revisions/1"),
        ("POST", "/revert"),
    ],
)
@pytest.mark.parametrize("config_id", ["no-such-config", str(uuid.uuid4()), "%00", "x" * 3000])
async def test_an_unknown_config_is_404(client: httpx2.AsyncClient, method: str, path: str, config_id: str) -> None:
    body = {"module": "m", "bundle_uri": "b", "revision": 1} if method != "GET" else None

    answer = await client.request(method, f"/configs/{config_id}{path}", json=body)

    assert (answer.status_code, answer.json()["code"]) == (404, "config_not_found")
