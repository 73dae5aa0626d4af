from amplifier_app_api.bundles.bundle import Bundle, with_sources
from amplifier_app_api.bundles.mount_plan import kernel_plan, mount_plan


def test_hooks_that_subscribe_by_name_are_told_the_events_of_the_host() -> None:
    bundle = Bundle(
        hooks=(
            {"module": "hooks-logging"},
            {"module": "hook-context-intelligence", "config": {"additional_events": ["mine", "session:config"]}},
            {"module": "hooks-other", "config": {}},
        )
    )

    assert kernel_plan(bundle)["hooks"] == [
        {"module": "hooks-logging", "config": {"additional_events": ["session:config", "mentions:resolved"]}},
        {
            "module": "hook-context-intelligence",
            "config": {"additional_events": ["mine", "session:config", "mentions:resolved"]},
        },
        {"module": "hooks-other", "config": {}},
    ]
    assert bundle.hooks[0] == {"module": "hooks-logging"}


def test_two_entries_of_one_provider_get_the_kernels_name_for_their_id() -> None:
    bundle = Bundle(providers=({"module": "p", "id": "a"}, {"module": "p", "id": "b", "instance_id": "c"}))

    assert [entry["instance_id"] for entry in kernel_plan(bundle)["providers"]] == ["a", "c"]
    assert "instance_id" not in mount_plan(bundle)["providers"][0]


def test_an_override_takes_the_place_of_a_source_and_never_gives_one() -> None:
    bundle = Bundle(
        session={"orchestrator": {"module": "o", "source": "s"}, "context": "c", "context_source": "s"},
        tools=({"module": "t", "source": "s", "config": {"module": "o", "source": "s"}}, {"module": "u"}),
        agents={"x": {"tools": [{"module": "t", "source": "s"}]}},
    )

    changed = with_sources(bundle, {"o": "/o", "c": "/c", "t": "/t", "u": "/u"})

    assert [(spec.module, spec.source) for spec in changed.modules()] == [
        ("o", "/o"),
        ("c", "/c"),
        ("t", "/t"),
        ("u", None),
        ("t", "/t"),
    ]
    assert changed.tools[0]["config"] == {"module": "o", "source": "s"}
    assert [spec.source for spec in bundle.modules()] == ["s", "s", "s", None, "s"]
