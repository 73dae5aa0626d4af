from typing import Any

import pytest

from amplifier_app_api.bundles import (
    MissingVariables,
    VariableScope,
    VariableUse,
    expand,
    find_variables,
    missing_variables,
)
from amplifier_app_api.bundles.variables import VariablesTooLong


def tool(**config: Any) -> dict[str, Any]:
    return {"tools": [{"module": "tool-a", "config": config}]}


def expanded(text: str, given: dict[str, str] | None = None) -> str:
    return expand(tool(k=text), VariableScope(given or {}))["tools"][0]["config"]["k"]


@pytest.mark.parametrize(
    ("text", "given", "result"),
    [
        ("${A}", {"A": "1"}, "1"),
        ("a-${A}-b-${B}", {"A": "1", "B": "2"}, "a-1-b-2"),
        ("${A}", {"A": ""}, ""),
        ("${A:-d}", {}, "d"),
        ("${A:-d}", {"A": ""}, "d"),
        ("${A:-d}", {"A": "1"}, "1"),
        ("${A:-}", {}, ""),
        ("${A:http://h:1/p}", {}, "http://h:1/p"),
        ("${A:d}", {"A": ""}, ""),
        ("${A:}", {}, ""),
        ("${A:?needed}", {"A": "1"}, "1"),
        ("$${A}", {"A": "1"}, "${A}"),
        ("$$${A}", {"A": "1"}, "$${A}"),
        ("$A ${} ${ A } ${1}", {"A": "1"}, "$A ${} ${ A } ${1}"),
        ("${A}", {"A": "${B}", "B": "x"}, "${B}"),
        ("${A}", {"A": "true"}, "true"),
    ],
)
def test_a_text_is_expanded(text: str, given: dict[str, str], result: str) -> None:
    assert expanded(text, given) == result


def test_only_text_values_of_options_are_expanded() -> None:
    plan = {
        "session": {"orchestrator": {"module": "${A}", "config": {"${A}": ["${A}", {"k": "${A}"}, 3, None, True]}}},
        "providers": [{"module": "p", "source": "${A}", "config": {"k": "${A}"}}],
        "hooks": [{"module": "h", "config": {"k": "${A}"}}],
        "agents": {"config": {"description": "${A}", "tools": [{"module": "t", "config": {"k": "${A}"}}]}},
        "spawn": {"tools": [{"module": "t", "config": {"k": "${A}"}}], "x": "${A}"},
    }

    assert expand(plan, VariableScope({"A": "1"})) == {
        "session": {"orchestrator": {"module": "${A}", "config": {"${A}": ["1", {"k": "1"}, 3, None, True]}}},
        "providers": [{"module": "p", "source": "${A}", "config": {"k": "1"}}],
        "hooks": [{"module": "h", "config": {"k": "1"}}],
        "agents": {"config": {"description": "${A}", "tools": [{"module": "t", "config": {"k": "1"}}]}},
        "spawn": {"tools": [{"module": "t", "config": {"k": "1"}}], "x": "${A}"},
    }


def test_the_plan_itself_stays_as_it_was() -> None:
    plan = tool(k={"deep": ["${A}"]})

    expand(plan, VariableScope({"A": "1"}))

    assert plan == tool(k={"deep": ["${A}"]})


def test_variables_are_found_with_their_places() -> None:
    plan = tool(a="${A} ${B:-b} $${C}", d=["${D:?tell me}", "${E:e}"])

    assert find_variables(plan) == (
        VariableUse(name="A", pointer="/tools/0/config/a"),
        VariableUse(name="B", pointer="/tools/0/config/a", default="b"),
        VariableUse(name="D", pointer="/tools/0/config/d/0", required="tell me"),
        VariableUse(name="E", pointer="/tools/0/config/d/1", default="e"),
    )


def test_every_missing_variable_is_named_with_its_place_and_no_value_is() -> None:
    scope = VariableScope({"GIVEN": "s3cret"}, {"KEPT": "t0psecret"}, ())

    with pytest.raises(MissingVariables) as refused:
        expand(tool(a="${GIVEN} ${A}", b="${B:?set B first}", c="${KEPT}", d="${A:?}"), scope)

    assert (refused.value.status, refused.value.code) == (422, "config_not_runnable")
    assert [(item.code, item.pointer, item.detail) for item in refused.value.items] == [
        ("missing_variable", "/tools/0/config/a", "The variable A has no value here."),
        ("missing_variable", "/tools/0/config/b", "B: set B first"),
        (
            "missing_variable",
            "/tools/0/config/c",
            "The variable KEPT of the server's environment is not in AMPLIFIER_ENV_ALLOW.",
        ),
        ("missing_variable", "/tools/0/config/d", "The variable A has no value here."),
    ]
    assert "secret" not in str(refused.value) + repr(scope)


def test_the_environment_is_used_only_as_far_as_it_is_allowed_and_behind_what_is_given() -> None:
    environment = {"A": "env", "B": "env"}

    assert expand(tool(k="${A}"), VariableScope({}, environment, ("A",))) == tool(k="env")
    assert expand(tool(k="${A}"), VariableScope({"A": "mine"}, environment, ("A",))) == tool(k="mine")
    assert expand(tool(k="${B:-d}"), VariableScope({}, environment, ("A",))) == tool(k="d")
    with pytest.raises(MissingVariables):
        expand(tool(k="${A}"), VariableScope({}, environment, ("A@host",)))


def provider(module: str = "provider-anthropic", **config: Any) -> dict[str, Any]:
    return {"providers": [{"module": module, "config": config}]}


@pytest.mark.parametrize(
    ("url", "allowed", "given"),
    [
        ("https://llm.example", ("KEY",), False),
        ("https://llm.example", ("KEY@llm.example",), True),
        ("https://LLM.example/v1", ("KEY@llm.Example",), True),
        ("https://llm.example:8443", ("KEY@llm.example",), True),
        ("https://llm.example:8443", ("KEY@llm.example:8443",), True),
        ("https://llm.example", ("KEY@llm.example:8443",), False),
        ("http://[::1]:9/x", ("KEY@[::1]",), True),
        ("https://llm.example.evil", ("KEY@llm.example",), False),
        ("https://llm.example@evil.example", ("KEY@llm.example",), False),
        ("https://evil.example/?llm.example", ("KEY@llm.example",), False),
        ("https://evil.example/${KEY}", ("KEY", "KEY@llm.example"), False),
        ("${WHERE}", ("KEY", "WHERE", "KEY@llm.example"), False),
        ("${WHERE}", ("KEY@llm.example", "WHERE@llm.example"), True),
        ("http://[broken", ("KEY", "KEY@"), False),
    ],
)
def test_a_provider_with_an_endpoint_of_its_own_gets_a_key_only_for_an_allowed_host(
    url: str, allowed: tuple[str, ...], given: bool
) -> None:
    scope = VariableScope({}, {"KEY": "s3cret", "WHERE": "https://llm.example"}, allowed)
    plan = provider(api_key="${KEY}", base_url=url)

    if given:
        assert expand(plan, scope)["providers"][0]["config"]["api_key"] == "s3cret"
    else:
        with pytest.raises(MissingVariables) as refused:
            expand(plan, scope)
        assert "s3cret" not in str([item.as_json() for item in refused.value.items])


def test_other_options_that_choose_an_endpoint_count_as_well() -> None:
    scope = VariableScope({}, {"KEY": "s3cret"}, ("KEY",))

    for option in ("azure_endpoint", "endpoint", "api_base", "host", "proxy"):
        with pytest.raises(MissingVariables):
            expand(provider(api_key="${KEY}", **{option: "https://evil.example"}), scope)


def test_what_is_given_with_the_session_goes_to_any_endpoint() -> None:
    plan = expand(provider(api_key="${KEY}", base_url="https://x.example"), VariableScope({"KEY": "mine"}))

    assert plan["providers"][0]["config"]["api_key"] == "mine"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("provider-anthropic", "ANTHROPIC_API_KEY"),
        ("provider-openai", "OPENAI_API_KEY"),
        ("provider-azure-openai", "AZURE_OPENAI_API_KEY"),
        ("provider-gemini", "GOOGLE_API_KEY"),
        ("provider-gemini", "GEMINI_API_KEY"),
    ],
)
def test_a_well_known_provider_without_a_key_gets_its_own(module: str, name: str) -> None:
    bare = {"providers": [{"module": module}]}

    allowed = expand(bare, VariableScope({}, {name: "key"}, (name,)))
    assert allowed == {"providers": [{"module": module, "config": {"api_key": "key"}}]}
    assert expand(bare, VariableScope({name: "mine"})) == {
        "providers": [{"module": module, "config": {"api_key": "mine"}}]
    }
    assert expand(bare, VariableScope({}, {name: "key"}, ())) == bare


def test_a_key_is_not_filled_in_beside_another_key_or_an_endpoint() -> None:
    scope = VariableScope(
        {}, {"ANTHROPIC_API_KEY": "key", "AZURE_OPENAI_API_KEY": "key"}, ("ANTHROPIC_API_KEY", "AZURE_OPENAI_API_KEY")
    )

    for plan in (
        provider(api_key="own"),
        provider(base_url="http://x.example"),
        provider("provider-azure-openai", azure_endpoint="https://x.example"),
        provider("provider-other"),
    ):
        assert expand(plan, scope)["providers"][0].get("config", {}) == plan["providers"][0]["config"]


def test_a_long_value_in_many_places_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(VariablesTooLong) as refused:
        expand(tool(k="${A}" * 1_000), VariableScope({"A": "x" * 100_000}))

    assert refused.value.code == "config_not_runnable"


def test_missing_variables_can_be_listed_without_a_refusal() -> None:
    plan = tool(a="${A}", b="${B:-b}")

    assert [item.pointer for item in missing_variables(plan, VariableScope())] == ["/tools/0/config/a"]
    assert missing_variables(plan, VariableScope({"A": "1"})) == ()
