"""Settings: from the environment as texts, from Python as real types, and wrong values as sentences."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from amplifier_app_api.settings import InvalidSettings, Settings, is_loopback, load_settings, unknown_variables


def test_without_anything_set_the_defaults_hold() -> None:
    settings = load_settings()

    assert (settings.host, settings.port) == ("127.0.0.1", 8765)
    assert settings.data_dir == Path.cwd() / ".amplifier-api"
    assert settings.stream_ping == timedelta(seconds=10)
    assert settings.max_body_bytes == 4 * 1024 * 1024
    assert settings.env_allow[0] == "ANTHROPIC_API_KEY"
    assert settings.default_config is True


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90", timedelta(seconds=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("1.5s", timedelta(seconds=1.5)),
        ("15m", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
    ],
)
def test_a_duration_is_a_number_with_a_unit(monkeypatch: pytest.MonkeyPatch, text: str, duration: timedelta) -> None:
    monkeypatch.setenv("AMPLIFIER_IDLE_CLOSE", text)

    assert load_settings().idle_close == duration


@pytest.mark.parametrize(("text", "size"), [("512", 512), ("4KiB", 4096), ("1MiB", 2**20), ("2gib", 2**31)])
def test_a_size_is_a_number_with_a_unit(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("AMPLIFIER_MAX_DOCUMENT_BYTES", text)

    assert load_settings().max_document_bytes == size


@pytest.mark.parametrize(("text", "on"), [("true", True), ("ON", True), ("1", True), ("off", False), ("0", False)])
def test_a_switch_has_six_words(monkeypatch: pytest.MonkeyPatch, text: str, on: bool) -> None:
    monkeypatch.setenv("AMPLIFIER_DEFAULT_CONFIG", text)

    assert load_settings().default_config is on


def test_lists_are_separated_by_commas_and_roots_as_in_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMPLIFIER_ENV_ALLOW", "TOKEN, ANTHROPIC_API_KEY@llm.example.com")
    monkeypatch.setenv("AMPLIFIER_ALLOWED_ORIGINS", "https://App.example.com,http://localhost:3000")
    monkeypatch.setenv("AMPLIFIER_SOURCE_ROOTS", "/srv/bundles:/srv/modules")

    settings = load_settings()

    assert settings.env_allow == ("TOKEN", "ANTHROPIC_API_KEY@llm.example.com")
    assert settings.allowed_origins == ("https://app.example.com", "http://localhost:3000")
    assert settings.source_roots == (Path("/srv/bundles"), Path("/srv/modules"))


def test_a_budget_is_a_list_of_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMPLIFIER_TURN_BUDGET", "tokens=200000, cost_usd=0.25,tool_calls=0")

    assert dict(load_settings().turn_budget) == {"tokens": 200000, "cost_usd": Decimal("0.25"), "tool_calls": 0}
    assert load_settings().session_budget == ()


@pytest.mark.parametrize("text", ["tokens", "tokens=-1", "tokens=0", "money=1", "seconds=1,seconds=2", "cost_usd=1e3"])
def test_a_budget_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AMPLIFIER_TENANT_BUDGET", text)

    with pytest.raises(InvalidSettings, match="AMPLIFIER_TENANT_BUDGET: must"):
        load_settings()


def test_an_empty_list_is_not_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMPLIFIER_ENV_ALLOW", "")

    assert load_settings().env_allow == ()


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("PORT", "99999", "AMPLIFIER_PORT: Input should be less than or equal to 65535"),
        ("IDLE_CLOSE", "0", "AMPLIFIER_IDLE_CLOSE: must be longer than 0"),
        ("IDLE_CLOSE", "9999999d", "AMPLIFIER_IDLE_CLOSE: must be between 0 and 3650d"),
        (
            "STREAM_PING",
            "soon",
            "AMPLIFIER_STREAM_PING: must be a number of seconds, or a number with ms, s, m, h or d",
        ),
        (
            "MAX_BODY_BYTES",
            "4MB",
            "AMPLIFIER_MAX_BODY_BYTES: must be a number of bytes, or a number with KiB, MiB or GiB",
        ),
        ("DEFAULT_CONFIG", "perhaps", "AMPLIFIER_DEFAULT_CONFIG: must be true or false, on or off, 1 or 0"),
        ("ENV_ALLOW", "a b", "AMPLIFIER_ENV_ALLOW: must list entries NAME or NAME@host"),
        ("LOG_LEVEL", "loud", "AMPLIFIER_LOG_LEVEL: Input should be 'debug', 'info', 'warning' or 'error'"),
        (
            "ALLOWED_ORIGINS",
            "example.com",
            "AMPLIFIER_ALLOWED_ORIGINS: must list origins such as https://app.example.com, or *",
        ),
    ],
)
def test_a_wrong_value_is_a_sentence_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, sentence: str
) -> None:
    monkeypatch.setenv(f"AMPLIFIER_{name}", text)

    with pytest.raises(InvalidSettings) as refusal:
        load_settings()

    assert refusal.value.detail == sentence


def test_a_wrong_database_address_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMPLIFIER_DATABASE_URL", "mysql://root:hunter2@db/app")

    with pytest.raises(InvalidSettings) as refusal:
        load_settings()

    assert refusal.value.detail == "AMPLIFIER_DATABASE_URL: must be sqlite:///path or postgresql://…"


def test_python_gives_real_types_which_win_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AMPLIFIER_STREAM_PING", "3s")

    settings = Settings(data_dir=tmp_path, stream_ping=timedelta(milliseconds=20), source_roots=(tmp_path,))

    assert (settings.data_dir, settings.stream_ping) == (tmp_path, timedelta(milliseconds=20))
    assert settings.source_roots == (tmp_path,)


def test_a_password_is_not_shown_when_settings_are_printed() -> None:
    settings = Settings(database_url="postgresql://app:hunter2@db/app")

    assert "hunter2" not in repr(settings)


def test_a_variable_that_is_no_setting_names_the_near_miss() -> None:
    environ = {
        "AMPLIFIER_STREAM_PNG": "1",
        "AMPLIFIER_FLUX": "1",
        "AMPLIFIER_PORT": "1",
        "AMPLIFIER_TEST_POSTGRES": "…",
        "AMPLIFIER_VECTORS": "…",
        "AMPLIFIER_HOME": "…",
        "PATH": "…",
    }

    assert unknown_variables(environ) == [
        "AMPLIFIER_FLUX is not a setting",
        "AMPLIFIER_STREAM_PNG is not a setting: did you mean AMPLIFIER_STREAM_PING?",
    ]


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.com", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local
