"""The schemas of options against the modules themselves, which know nothing of them.

A module is mounted for real, with a mapping that notes what is looked up in it. What a value changes is seen in what
was mounted: `facts` reads every object of ours that can be reached from it.
"""

import asyncio
import copy
import functools
import math
import re
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from amplifier_core.llm_errors import ConfigurationError
from amplifier_core.testing import MockCoordinator
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from amplifier_app_api.modules import BUILTIN_MODULES, load_mount
from amplifier_app_api.modules.schemas import UnknownOption, schema_of, unknown_options
from amplifier_app_api.modules.tools.mcp_options import McpOptions
from amplifier_app_api.observability.redaction import names_secret

Schema = dict[str, Any]
Place = tuple[str, ...]

NEEDED: dict[str, dict[str, Any]] = {
    "provider-anthropic": {"api_key": "k"},
    "provider-openai": {"api_key": "k"},
    "provider-azure-openai": {"api_key": "k", "azure_endpoint": "https://azure.invalid"},
    "provider-gemini": {"api_key": "k"},
}
"""What a module does not mount without."""

REMOTE = ("headers", "timeout", "connect_timeout", "allowed_tools", "trust_annotations", "enabled")
LOCAL = ("args", "env", "network")
SEARCHING = {"search_engine": "searxng", "base_url": "https://search.invalid"}
RULE_PARTS = ("tool", "tools", "command", "path", "arguments", "action", "reason")
RULE = {"tool": ["bash"], "action": "ask"}
JUDGE = {"provider": "one", "model": "small"}
BESIDE: dict[str, dict[str, Any]] = {
    "provider-openai display_name": {"base_url": "https://llm.invalid/v1"},
    "provider-azure-openai endpoint": {"azure_endpoint": None, "endpoint": "https://azure.invalid"},
    "tool-web search_engine": {"base_url": "https://search.invalid", "api_key": "k"},
    "tool-web base_url": SEARCHING,
    "tool-web api_key": SEARCHING,
    "tool-bash max_timeout": {"timeout": 1},
    **{f"hooks-approval rules.*.{name}": {"rules": [RULE]} for name in RULE_PARTS},
    **{
        f"loop-streaming goal_provider_preferences.*.{name}": {"goal_provider_preferences": [JUDGE]}
        for name in ("provider", "model", "config")
    },
    "hooks-approval tools.*.require_approval": {"tools": {"one": {"require_approval": True}}},
    "tool-mcp timeout": {"servers": {"one": {"command": "true"}}},
    "tool-mcp connect_timeout": {"servers": {"one": {"command": "true"}}},
    "tool-mcp network": {"servers": {"one": {"command": "true"}}},
    **{f"tool-mcp servers.*.{name}": {"servers": {"one": {"url": "https://mcp.invalid"}}} for name in REMOTE},
    **{f"tool-mcp servers.*.{name}": {"servers": {"one": {"command": "true"}}} for name in LOCAL},
}
"""What an option counts beside; None takes something away."""
VALUES: dict[str, Any] = {
    "provider-openai api": "chat",
    "hooks-redaction rules": ["secrets"],
    "hooks-status-context timezone": "Europe/Paris",
    "hooks-approval rules": [RULE],
    "hooks-approval rules.*.action": "deny",
    "hooks-approval tools": {"one": {"require_approval": True}},
    "hooks-approval tools.*.require_approval": False,
    "tool-mcp servers": {"one": {"command": "true"}},
    "loop-streaming goal_provider_preferences": [JUDGE],
}
"""What is said where no other value would do."""


class Looked(Mapping[str, Any]):
    """A mapping that notes the place of everything that is looked up in it, and of what it is asked to list."""

    def __init__(self, values: Mapping[str, Any], places: set[Place], at: Place = ()) -> None:
        self._values = values
        self._places = places
        self._at = at

    def __bool__(self) -> bool:
        return True  # so that nobody takes an empty mapping of their own in its place

    def __getitem__(self, name: str) -> Any:
        at = (*self._at, name)
        self._places.add(at)
        value = self._values[name]
        if isinstance(value, list):
            return [Looked(item, self._places, (*at, "*")) if isinstance(item, Mapping) else item for item in value]
        return Looked(value, self._places, at) if isinstance(value, Mapping) else value

    def __iter__(self) -> Iterator[str]:
        if not self._at:
            self._places.add(("every option",))
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Watched:
    """The kernel's coordinator, and a list of what a module gave it."""

    def __init__(self, folder: Path) -> None:
        self._kernel = MockCoordinator()
        self._kernel.register_capability("session.working_dir", str(folder))
        self.given: list[Any] = []
        self.hooks = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    async def mount(self, point: str, module: Any, name: str | None = None) -> None:
        self.given.append(module)

    def register(self, event: str, handler: Any, priority: int = 0, name: str | None = None) -> Any:
        self.given.append((event, handler, priority))
        return lambda: None

    async def collect_contributions(self, channel: str) -> list[Any]:
        return [["somebody:said"]]

    async def emit(self, event: str, data: Any) -> Any:
        return await self._kernel.hooks.emit(event, data)

    def register_capability(self, name: str, value: Any) -> None:
        self.given.append((name, value))
        self._kernel.register_capability(name, value)


READERS: dict[str, Any] = {"tool-mcp": McpOptions.read}
"""Modules that start programs when they are mounted: only their options are read."""


async def mounted(module_id: str, values: Mapping[str, Any], folder: Path) -> Any:
    """What the module makes of these options; it is closed again."""
    if module_id in READERS:
        return facts(READERS[module_id](values))
    watched = Watched(folder)
    close = await load_mount(module_id)(watched, values)
    try:
        return facts(list(watched.given))
    finally:
        closing = close() if callable(close) else None
        if closing is not None:
            await closing


def facts(value: Any, seen: frozenset[int] = frozenset()) -> Any:
    """Something of ours as plain data that can be compared."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if id(value) in seen:
        return "again"
    seen |= {id(value)}

    def of(*parts: Any) -> list[Any]:
        return [facts(part, seen) for part in parts]

    match value:
        case Mapping():
            return {str(key): facts(item, seen) for key, item in value.items()}
        case list() | tuple():
            return of(*value)
        case set() | frozenset():
            return sorted(map(str, value))
        case Decimal() | Path() | ZoneInfo():
            return str(value)
        case re.Pattern():
            return value.pattern
        case types.MethodType():
            return [value.__name__, *of(value.__self__)]
        case types.FunctionType():
            return [value.__qualname__, *of(*(cell.cell_contents for cell in value.__closure__ or ()))]
        case functools.partial():
            return of(value.func, *value.args, value.keywords)
        case _ if type(value).__module__.startswith("amplifier_app_api.modules"):
            slots = [slot for kind in type(value).__mro__ for slot in getattr(kind, "__slots__", ())]
            members = {name: getattr(value, name, None) for name in slots} | getattr(value, "__dict__", {})
            return {"": type(value).__name__, **{name: facts(item, seen) for name, item in members.items()}}
        case _:
            return type(value).__name__


def options_in(properties: Mapping[str, Schema], at: Place = ()) -> Iterator[tuple[Place, Schema]]:
    """Every option with its place, those inside others too; `*` stands for a name that is free."""
    for name, option in properties.items():
        yield (*at, name), option
        yield from options_in(option.get("properties", {}), (*at, name))
        each = option.get("items", option.get("additionalProperties"))
        if isinstance(each, dict):
            yield from options_in(each.get("properties", {}), (*at, name, "*"))


OPTIONS = {
    f"{module_id} {'.'.join(place)}": (module_id, place, option)
    for module_id in BUILTIN_MODULES
    for place, option in options_in(schema_of(module_id)["properties"])
}


def counts(option: Schema) -> bool:
    """Whether the option itself says something: what is no longer used does not, nor does a section of others."""
    return not option.get("deprecated") and "properties" not in option


def named(*names: str) -> Any:
    """A parametrization over the options that have one of these keywords."""
    chosen = [key for key, (_, _, option) in OPTIONS.items() if any(name in option for name in names)]
    return pytest.mark.parametrize("key", chosen)


def config_beside(key: str) -> dict[str, Any]:
    """A config in which the option counts, without it."""
    config = {**NEEDED.get(OPTIONS[key][0], {}), **BESIDE.get(key, {})}
    return {name: given for name, given in config.items() if given is not None}


def config_with(key: str, value: Any) -> dict[str, Any]:
    """The same with this value for the option."""
    config = copy.deepcopy(config_beside(key))
    *way, last = OPTIONS[key][1]
    inner: Any = config
    for name in way:
        if name == "*":
            inner = inner[0] if isinstance(inner, list) else inner.setdefault("one", {})
        else:
            inner = inner.setdefault(name, {})
    inner[last] = value
    return config


def another(key: str) -> Any:
    """A value that the option may have and has not by default."""
    if key in VALUES:
        return VALUES[key]
    _, _, option = OPTIONS[key]
    default, least, most = (option.get(name) for name in ("default", "minimum", "maximum"))
    if "enum" in option:
        return next(choice for choice in option["enum"] if choice != default)
    match option["type"]:
        case "boolean":
            return default is not True
        case "integer" | "number":
            fitting = Draft202012Validator({**option, "not": {"const": default}})
            return next(number for number in (7, least, most) if fitting.is_valid(number))
        case "string":
            return "https://other.invalid/v1" if "pattern" in option else "other"
        case "array":
            return ["other"]
        case _:
            return {"other": "1"}


def with_star(place: Place, free: set[Place]) -> Place:
    """The place with `*` for every name that stands in a mapping of `free` names."""
    found: Place = ()
    for name in place:
        found += ("*",) if found in free else (name,)
    return found


def refused(key: str, value: Any, folder: Path) -> bool:
    try:
        asyncio.run(mounted(OPTIONS[key][0], config_with(key, value), folder))
    except ConfigurationError:
        return True
    return False


@pytest.mark.parametrize("module_id", BUILTIN_MODULES)
def test_every_module_has_a_schema_that_is_one(module_id: str) -> None:
    schema = schema_of(module_id)

    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert (schema["type"], schema["title"]) == ("object", module_id)


@pytest.mark.parametrize("key", OPTIONS)
def test_every_option_is_described_in_a_sentence(key: str) -> None:
    assert re.fullmatch(r"[A-Z`][^\n]{5,220}\.", OPTIONS[key][2]["description"])


def test_a_schema_belongs_to_whoever_asked() -> None:
    schema_of("loop-basic")["properties"].clear()

    assert "max_iterations" in schema_of("loop-basic")["properties"]


def test_a_module_that_is_not_built_in_has_none() -> None:
    with pytest.raises(KeyError, match="loop-nowhere"):
        schema_of("loop-nowhere")


def test_reading_the_schemas_imports_no_sdk() -> None:
    script = (
        "import sys; from amplifier_app_api.modules import BUILTIN_MODULES;"
        "from amplifier_app_api.modules.schemas import schema_of;"
        "[schema_of(module) for module in BUILTIN_MODULES];"
        "print([name for name in sys.modules if name.partition('.')[0] in ('anthropic', 'openai', 'google', 'ollama', "
        "'mcp', 'httpx', 'httpcore2') or name.startswith('amplifier_app_api.modules.providers')])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module_id", BUILTIN_MODULES)
async def test_a_module_looks_for_exactly_the_options_of_its_schema(module_id: str, tmp_path: Path) -> None:
    keys = [key for key, (owner, _, _) in OPTIONS.items() if owner == module_id]
    places: set[Place] = set()

    for config in [NEEDED.get(module_id, {}), *(config_with(key, another(key)) for key in keys)]:
        try:
            await mounted(module_id, Looked(config, places), tmp_path)
        except ConfigurationError:
            continue  # what one value wants beside it was looked for all the same

    free = {OPTIONS[key][1] for key in keys if "additionalProperties" in OPTIONS[key][2]}
    free |= {OPTIONS[key][1] for key in keys if "properties" in OPTIONS[key][2].get("items", {})}
    looked = {with_star(place, free) for place in places}
    assert {place for place in looked if place[:-1] not in free} == {OPTIONS[key][1] for key in keys}


@named("default")
async def test_to_say_the_default_is_to_say_nothing(key: str, tmp_path: Path) -> None:
    module_id, _, option = OPTIONS[key]

    said = await mounted(module_id, config_with(key, option["default"]), tmp_path)

    assert said == await mounted(module_id, config_beside(key), tmp_path)
    Draft202012Validator(option).validate(option["default"])


@pytest.mark.parametrize("key", [key for key, (_, _, option) in OPTIONS.items() if counts(option)])
async def test_to_say_something_else_makes_a_difference(key: str, tmp_path: Path) -> None:
    module_id, _, option = OPTIONS[key]
    value = another(key)

    said = await mounted(module_id, config_with(key, value), tmp_path)

    assert said != await mounted(module_id, config_beside(key), tmp_path)
    Draft202012Validator(option).validate(value)


@named("minimum", "maximum")
@settings(max_examples=10)
@given(data=st.data())
def test_bounds_are_those_that_are_enforced(key: str, data: st.DataObject, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    _, _, option = OPTIONS[key]
    least, most = option.get("minimum"), option.get("maximum")
    if option["type"] == "integer":
        inside: Any = st.integers(least, 2**31 if most is None else most)
        outside: Any = st.integers(max_value=least - 1)
        beyond = [least - 1] if least is not None else []
    else:
        inside = st.floats(least, 1e9 if most is None else most)
        outside = st.floats(max_value=math.nextafter(least, -math.inf), allow_infinity=False)
        beyond = [math.nextafter(least, -math.inf)]
        if most is not None:
            outside |= st.floats(min_value=math.nextafter(most, math.inf), allow_infinity=False)
            beyond.append(math.nextafter(most, math.inf))

    assert not refused(key, data.draw(inside), folder)
    assert refused(key, data.draw(outside), folder)
    assert all(refused(key, value, folder) for value in beyond)


@pytest.mark.parametrize(
    "key", [key for key, (_, _, option) in OPTIONS.items() if option["type"] in ("integer", "number")]
)
def test_without_a_bound_there_is_none(key: str, tmp_path: Path) -> None:
    _, _, option = OPTIONS[key]

    assert "minimum" in option or not refused(key, -(10**9), tmp_path)
    assert "maximum" in option or not refused(key, 10**9, tmp_path)


TAKEN = {"tool-mcp servers.*.args": "text"}
"""What is wrong instead of what is wrong elsewhere: a command line may hold numbers."""
PASSED_OVER = {"hooks-approval rules.*.reason"}
"""What is no text here is no reason, and the rule stands all the same."""
SWITCHES_ONLY = {"hooks-approval tools.*.require_approval"}
"""What a person is asked about hangs on no text."""
WRONG = {"integer": "many", "number": "much", "boolean": "perhaps", "string": ["a"], "array": [1], "object": "text"}


@pytest.mark.parametrize(
    "key", [key for key in OPTIONS if key not in PASSED_OVER and not OPTIONS[key][2].get("deprecated")]
)
def test_a_value_of_another_type_is_refused(key: str, tmp_path: Path) -> None:
    _, _, option = OPTIONS[key]
    wrong = [TAKEN.get(key, WRONG[option["type"]])]
    wrong += ["something else"] if "enum" in option or "pattern" in option else []

    assert [value for value in wrong if not refused(key, value, tmp_path)] == []
    assert all(list(Draft202012Validator(option).iter_errors(value)) for value in wrong)


@named("enum")
def test_every_choice_may_be_made(key: str, tmp_path: Path) -> None:
    assert [choice for choice in OPTIONS[key][2]["enum"] if refused(key, choice, tmp_path)] == []


@pytest.mark.parametrize(
    "key",
    [
        key
        for key, (_, _, option) in OPTIONS.items()
        if option["type"] in ("integer", "number", "boolean") and key not in SWITCHES_ONLY
    ],
)
async def test_a_text_that_holds_a_value_is_as_good(key: str, tmp_path: Path) -> None:
    module_id, value = OPTIONS[key][0], another(key)

    said = await mounted(module_id, config_with(key, str(value)), tmp_path)

    assert said == await mounted(module_id, config_with(key, value), tmp_path)


@pytest.mark.parametrize("key", OPTIONS)
def test_what_the_log_takes_for_a_secret_is_written_and_never_read(key: str) -> None:
    _, place, option = OPTIONS[key]
    is_text = option["type"] == "string"

    assert option.get("writeOnly", False) == (is_text and names_secret(place[-1]))
    assert not (option.get("writeOnly") and "default" in option)


def test_an_option_that_is_none_is_told_with_the_one_that_was_meant() -> None:
    found = unknown_options("provider-scripted", {"reply": "x", "tokens": 3, "colour": "red"})

    assert list(found) == [UnknownOption(("reply",), "replies"), UnknownOption(("colour",), None)]


def test_names_that_are_free_are_no_unknown_options() -> None:
    assert list(unknown_options("tool-bash", {"environment": {"ANY": "1"}})) == []
    assert list(unknown_options("provider-vllm", {"extra_body": {"top_k": {"deep": 1}}})) == []
