"""Plans, validations and diffs, as a client sees them."""

from pathlib import Path

import httpx2
import pytest

from amplifier_app_api.app import create_app
from amplifier_app_api.services import open_services
from amplifier_app_api.settings import Settings

ANTHROPIC = """\
bundle:
  name: dev
includes:
  - bundle: foundation
providers:
  - module: provider-anthropic
    config:
      api_key: ${MY_KEY}
      model: claude
"""
SCRIPTED = "bundle: {name: dev}\nincludes: ['foundation:minimal']\nproviders:\n  - module: provider-scripted\n"


async def store(client: httpx2.AsyncClient, text: str) -> str:
    return (await client.post("/configs", json={"name": "c", "yaml_content": text})).json()["config_id"]


async def test_the_plan_of_a_config_is_what_its_session_runs(client: httpx2.AsyncClient) -> None:
    config_id = await store(client, SCRIPTED)

    plan = (await client.get(f"/configs/{config_id}/plan")).json()

    assert (plan["storable"], plan["runnable"], plan["problems"]) == (True, True, [])
    assert plan["mount_plan"] == {
        "session": {"orchestrator": "loop-streaming", "context": "context-simple"},
        "providers": [{"module": "provider-scripted"}],
        "tools": [{"module": "tool-filesystem"}],
    }
    assert plan["provenance"]["/providers/0/module"] == {
        "document": "this document",
        "includes": [],
        "pointer": "/providers/0/module",
        "line": 4,
    }
    assert plan["provenance"]["/tools/0/module"]["includes"] == ["foundation:minimal"]
    assert [(module["id"], module["origin"]) for module in plan["modules"]] == [
        ("loop-streaming", "builtin"),
        ("context-simple", "builtin"),
        ("provider-scripted", "builtin"),
        ("tool-filesystem", "builtin"),
    ]
    assert plan["includes"] == [
        {"include": "foundation:minimal", "name": "foundation-minimal", "repeated": False, "includes": []}
    ]
    assert (await client.post("/sessions", json={"config_id": config_id})).status_code == 201


async def test_an_older_revision_can_be_planned(client: httpx2.AsyncClient) -> None:
    config_id = await store(client, "bundle: {name: dev}\n")
    await client.put(f"/configs/{config_id}", json={"yaml_content": SCRIPTED})

    old = (await client.get(f"/configs/{config_id}/plan", params={"revision": 1})).json()
    new = (await client.get(f"/configs/{config_id}/plan")).json()

    assert (old["runnable"], new["runnable"]) == (False, True)
    assert [problem["code"] for problem in old["problems"]] == ["missing_section"] * 3


async def test_a_document_is_planned_with_its_variables_and_nothing_is_stored(client: httpx2.AsyncClient) -> None:
    body = {"yaml_content": ANTHROPIC, "variables": {"MY_KEY": "sk-given-with-the-session"}}

    with_key = await client.post("/configs/plan", json=body)
    without = (await client.post("/configs/plan", json={"yaml_content": ANTHROPIC})).json()

    assert "sk-given" not in with_key.text
    plan = with_key.json()
    assert plan["runnable"]
    assert plan["variables"] == [{"name": "MY_KEY", "pointer": "/providers/0/config/api_key", "from": "session"}]
    assert plan["mount_plan"]["providers"][0]["config"] == {"api_key": "${MY_KEY}", "model": "claude"}
    assert not without["runnable"]
    assert [(problem["code"], problem["line"]) for problem in without["problems"]] == [("missing_variable", 8)]
    assert (await client.get("/configs")).json()["total"] == 0


async def test_a_secret_in_the_text_is_masked(client: httpx2.AsyncClient) -> None:
    text = ANTHROPIC.replace("${MY_KEY}", "sk-written-into-the-text")

    answer = await client.post("/configs/plan", json={"yaml_content": text})

    assert "sk-written" not in answer.text
    assert answer.json()["mount_plan"]["providers"][0]["config"]["api_key"] == "***"
    assert "/providers/0/config/api_key" in answer.json()["provenance"]


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("bundle: [\n\n", "invalid_yaml", 3),
        ("bundle:\n  name: a\ntools: 5\n", "invalid_document", 3),
        ("bundle: {name: a}\nincludes: [./b.yaml]\n", "relative_reference", 2),
        ("bundle: {name: a}\nx: &x [1]\ny: {<<: *y}\n", "invalid_yaml", 3),
        ("[" * 100, "document_too_complex", 1),
    ],
)
async def test_a_document_that_cannot_be_stored_is_an_answer(
    client: httpx2.AsyncClient, text: str, code: str, line: int
) -> None:
    answer = await client.post("/configs/validate", json={"yaml_content": text})

    assert answer.status_code == 200
    found = answer.json()
    assert (found["valid"], found["storable"], found["runnable"]) == (False, False, False)
    assert [(problem["code"], problem["line"]) for problem in found["problems"]] == [(code, line)]
    planned = (await client.post("/configs/plan", json={"yaml_content": text})).json()
    assert (planned["storable"], planned["mount_plan"]) == (False, {})
    assert planned["problems"] == found["problems"]


async def test_a_valid_config_has_nothing_wrong(client: httpx2.AsyncClient) -> None:
    config_id = await store(client, SCRIPTED)

    found = (await client.post(f"/configs/{config_id}/validate")).json()

    assert found == {"valid": True, "storable": True, "runnable": True, "problems": [], "warnings": []}


async def test_variables_can_be_given_to_the_validation_of_a_config(client: httpx2.AsyncClient) -> None:
    config_id = await store(client, ANTHROPIC)

    without = (await client.post(f"/configs/{config_id}/validate")).json()
    given = (await client.post(f"/configs/{config_id}/validate", json={"variables": {"MY_KEY": "x"}})).json()

    assert [problem["pointer"] for problem in without["problems"]] == ["/providers/0/config/api_key"]
    assert given["valid"]


async def test_a_misspelt_section_is_not_valid_and_still_runs(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/configs/validate", json={"yaml_content": f"{SCRIPTED}tool: []\nnotes: mine\n"})

    found = answer.json()
    assert (found["valid"], found["storable"], found["runnable"]) == (False, True, True)
    assert [(problem["code"], problem["pointer"]) for problem in found["problems"]] == [("unknown_section", "/tool")]
    assert found["warnings"] == ["The section 'notes' (line 6) means nothing in a bundle and is left out."]


async def test_a_circle_of_includes_is_a_warning_of_a_plan_and_a_problem_of_a_validation(
    data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("bundle: {name: a}\nincludes: [./b.yaml]\n")
    (tmp_path / "b.yaml").write_text("bundle: {name: b}\nincludes: [./a.yaml]\n")
    text = SCRIPTED.replace("minimal']", f"minimal', '{tmp_path}/a.yaml']")
    settings = Settings(data_dir=data_dir, default_config=False, source_roots=(tmp_path,))
    async with (
        open_services(settings) as services,
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(create_app(services=services)), base_url="http://localhost"
        ) as client,
    ):
        plan = (await client.post("/configs/plan", json={"yaml_content": text})).json()
        found = (await client.post("/configs/validate", json={"yaml_content": text})).json()

    circle = [f"{tmp_path}/a.yaml", "./b.yaml", "./a.yaml"]
    assert (plan["runnable"], plan["problems"]) == (True, [])
    assert plan["warnings"] == [f"The include dev → {' → '.join(circle)} closes a circle and was left out."]
    (problem,) = found["problems"]
    assert (problem["code"], problem["line"], problem["origin"]["includes"]) == ("include_cycle", 2, circle)
    assert (found["valid"], found["runnable"]) == (False, True)


async def test_a_diff_has_the_text_and_what_it_composes_to(client: httpx2.AsyncClient) -> None:
    config_id = await store(client, "bundle: {name: dev}\nproviders:\n  - module: provider-scripted\n")
    await client.put(f"/configs/{config_id}", json={"yaml_content": SCRIPTED.replace("dev", "new")})

    diff = (await client.get(f"/configs/{config_id}/diff", params={"from": 1, "to": 2})).json()

    assert (diff["from"], diff["to"]) == (1, 2)
    assert diff["text"] == [
        "--- revision 1",
        "+++ revision 2",
        "@@ -1,3 +1,4 @@",
        "-bundle: {name: dev}",
        "+bundle: {name: new}",
        "+includes: ['foundation:minimal']",
        " providers:",
        "   - module: provider-scripted",
    ]
    minimal = {"document": "foundation-minimal", "includes": ["foundation:minimal"]}
    assert [{**change, "origin": {key: change["origin"][key] for key in minimal}} for change in diff["plan"]] == [
        {
            "pointer": "/session",
            "change": "added",
            "from": None,
            "to": {"orchestrator": "loop-streaming", "context": "context-simple"},
            "origin": minimal,
        },
        {
            "pointer": "/tools",
            "change": "added",
            "from": None,
            "to": [{"module": "tool-filesystem"}],
            "origin": minimal,
        },
    ]
    back = (await client.get(f"/configs/{config_id}/diff", params={"from": 2, "to": 1})).json()
    assert [change["change"] for change in back["plan"]] == ["removed", "removed"]
    same = (await client.get(f"/configs/{config_id}/diff", params={"from": 2, "to": 2})).json()
    assert same == {"from": 2, "to": 2, "text": [], "plan": []}


async def test_what_is_not_there_is_not_planned(client: httpx2.AsyncClient) -> None:
    config_id = await store(client, SCRIPTED)

    for answer, code in [
        (await client.get("/configs/none/plan"), "config_not_found"),
        (await client.post("/configs/none/validate"), "config_not_found"),
        (await client.get("/configs/none/diff", params={"from": 1, "to": 1}), "config_not_found"),
        (await client.get(f"/configs/{config_id}/plan", params={"revision": 2}), "revision_not_found"),
        (await client.get(f"/configs/{config_id}/diff", params={"from": 1, "to": 2}), "revision_not_found"),
    ]:
        assert (answer.status_code, answer.json()["code"]) == (404, code)


async def test_a_request_that_is_no_question_is_refused(client: httpx2.AsyncClient) -> None:
    config_id = await store(client, SCRIPTED)

    for answer in [
        await client.post("/configs/validate", json={}),
        await client.post("/configs/plan", json={"yaml_content": SCRIPTED, "variables": {"A": 1}}),
        await client.get(f"/configs/{config_id}/diff", params={"from": 1}),
        await client.get(f"/configs/{config_id}/plan", params={"revision": 0}),
    ]:
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
