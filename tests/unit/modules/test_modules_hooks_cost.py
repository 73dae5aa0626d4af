from types import SimpleNamespace
from typing import Any

import pytest
from amplifier_core.testing import MockCoordinator

from amplifier_app_api.modules import load_mount
from amplifier_app_api.modules.kernel import ConfigurationError


class Meter:
    """Calls of a model against budgets; `told` is what people were shown."""

    def __init__(self) -> None:
        self.coordinator = MockCoordinator()
        self.told: list[tuple[str, str]] = []
        self.coordinator.display_system = SimpleNamespace(
            show_message=lambda text, level, source: self.told.append((level, text))
        )
        self.events: list[tuple[str, dict[str, Any]]] = []

        async def note(event: str, data: dict[str, Any]) -> None:
            self.events.append((event, {key: data[key] for key in ("budget", "limit", "spent")}))

        for event in ("budget:warning", "budget:exceeded"):
            self.coordinator.hooks.register(event, note, 0, f"test:{event}")

    async def mount(self, **options: Any) -> "Meter":
        self.close = await load_mount("hooks-cost")(self.coordinator, options)
        return self

    async def turn(self) -> None:
        await self.coordinator.hooks.emit("prompt:submit", {"prompt": "x"})

    async def ask(self, usage: dict[str, Any] | None = None, event: str = "llm:response") -> str | None:
        """None when the call was made, else why not."""
        result = await self.coordinator.hooks.emit("provider:request", {"provider": "p"})
        if result.action == "deny":
            return result.reason
        assert result.action == "continue"
        await self.coordinator.hooks.emit(event, {"usage": usage})
        return None


def usage(cost: str | None = None, given: int = 0, got: int = 0, cached: int = 0) -> dict[str, Any]:
    return {"cost_usd": cost, "input_tokens": given, "output_tokens": got, "cache_read_tokens": cached}


async def test_it_warns_once_and_then_denies() -> None:
    meter = await Meter().mount(session_budget_usd=1)

    answers = [await meter.ask(usage("0.45")) for _ in range(4)]

    assert answers == [None, None, None, "The budget session_budget_usd is used up: $1.35 of $1"]
    assert meter.told == [
        ("warning", "$0.9 of the $1 of session_budget_usd are used"),
        ("error", "The budget session_budget_usd is used up: $1.35 of $1"),
    ]
    assert meter.events == [
        ("budget:warning", {"budget": "session_budget_usd", "limit": "1.0", "spent": "0.90"}),
        ("budget:exceeded", {"budget": "session_budget_usd", "limit": "1.0", "spent": "1.35"}),
    ]


async def test_a_budget_of_a_turn_is_there_again_in_the_next() -> None:
    meter = await Meter().mount(turn_budget_tokens=100, session_budget_tokens=250)
    answers: list[list[bool]] = []
    for _ in range(3):
        await meter.turn()
        answers.append([await meter.ask(usage(given=40, got=60)) is None for _ in range(2)])

    assert answers == [[True, False], [True, False], [True, False]]
    await meter.turn()
    assert await meter.ask() == "The budget session_budget_tokens is used up: 300 tokens of 250 tokens"


async def test_what_came_from_a_cache_counts_as_cost_alone() -> None:
    meter = await Meter().mount(session_budget_tokens=100)

    assert await meter.ask(usage(given=1000, cached=990, got=5)) is None
    assert await meter.ask(usage()) is None


async def test_a_call_is_counted_once_whoever_tells_of_it() -> None:
    meter = await Meter().mount(session_budget_tokens=100)
    await meter.ask(usage(given=60))
    await meter.coordinator.hooks.emit("provider:response", {"usage": usage(given=60)})
    assert await meter.ask(usage(given=30), event="provider:response") is None
    await meter.coordinator.hooks.emit("provider:response", {"usage": "Usage(…)"})

    assert await meter.ask(usage(given=20)) is None
    assert await meter.ask() is not None


async def test_what_was_used_before_the_opening_counts() -> None:
    meter = Meter()

    async def before() -> dict[str, Any]:
        return {"input_tokens": 5, "output_tokens": 5, "cost_usd": "0.95"}

    meter.coordinator.register_capability("host.session_usage", before)
    await meter.mount(session_budget_usd=1)

    assert await meter.ask(usage("0.05")) is None
    assert await meter.ask() == "The budget session_budget_usd is used up: $1 of $1"


async def test_what_agents_used_in_earlier_turns_counts() -> None:
    meter = Meter()
    known = {"input_tokens": 0, "output_tokens": 0, "cost_usd": "0"}
    meter.coordinator.register_capability("host.session_usage", lambda: known)
    await meter.mount(session_budget_usd=1)

    await meter.turn()
    assert await meter.ask(usage("0.10")) is None
    known["cost_usd"] = "0.90"  # the host's account of that turn, with its agents
    await meter.turn()
    assert await meter.ask(usage("0.10")) is None
    assert await meter.ask() == "The budget session_budget_usd is used up: $1 of $1"


async def test_a_cost_that_is_not_known_is_told_once_or_denied() -> None:
    warned, denied = (
        await Meter().mount(session_budget_usd=1),
        await Meter().mount(session_budget_usd=1, unknown_cost="deny"),
    )

    assert [await warned.ask(usage(None, 5)) for _ in range(3)] == [None, None, None]
    assert [level for level, _ in warned.told] == ["warning"]
    assert [await denied.ask(usage(None, 5)) for _ in range(2)] == [
        None,
        "the cost of this model is not known, so its budget cannot be kept",
    ]


async def test_a_check_that_fails_is_a_no() -> None:
    meter = Meter()

    def broken() -> Any:
        raise OSError("the database is away")

    meter.coordinator.register_capability("host.session_usage", broken)
    await meter.mount(session_budget_usd=1)

    assert await meter.ask() == "the budget of this session could not be checked"


async def test_a_turn_ends_where_its_budget_does(open_chat: Any) -> None:
    chat = await open_chat(
        replies=["[[usage: input=80 output=30]] [[tool: again {}]] [[then: done]]"],
        hooks=[{"module": "hooks-cost", "config": {"turn_budget_tokens": 100}}],
    )
    await chat.add_result("again", "ok")

    answer = await chat.say("go")

    assert answer == "Operation denied: The budget turn_budget_tokens is used up: 110 tokens of 100 tokens"
    assert len(chat.of("llm:request")) == 1


async def test_without_budgets_nothing_is_denied_and_nothing_is_left_when_it_is_closed() -> None:
    meter = await Meter().mount()
    assert await meter.ask(usage("1000000", 10**9)) is None

    meter.close()

    assert {name for names in meter.coordinator.hooks.list_handlers().values() for name in names} == {
        "test:budget:warning",
        "test:budget:exceeded",
    }


@pytest.mark.parametrize(
    "options", [{"warn_at": 2}, {"session_budget_usd": "much"}, {"turn_budget_usd": -1}, {"unknown_cost": "x"}]
)
async def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="hooks-cost"):
        await load_mount("hooks-cost")(MockCoordinator(), options)
