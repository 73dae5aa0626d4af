"""Known secrets in what is told."""

import json

import pytest

from amplifier_app_api.runtime.masking import MASK, SecretMask, names_secret, secret_variables, secrets_in


def test_every_known_value_is_replaced_the_longest_first() -> None:
    mask = SecretMask(["secret-one", "secret-one-and-more"])

    assert mask.text("a secret-one-and-more b secret-one") == f"a {MASK} b {MASK}"


def test_a_short_value_is_no_secret() -> None:
    assert SecretMask(["short"]).text("a short text") == "a short text"


@pytest.mark.parametrize("quoted", [json.dumps, repr, str])
def test_a_value_of_several_lines_is_known_however_it_is_quoted(quoted: object) -> None:
    key = 'BEGIN "KEY"\nabc\tdef\\ghi'

    assert SecretMask([key]).text(f"it is {quoted(key)}") in (  # type: ignore[operator]
        f"it is {MASK}",
        f'it is "{MASK}"',
        f"it is '{MASK}'",
    )


def test_a_value_that_is_half_a_character_does_not_break_the_mask() -> None:
    assert SecretMask(["secret\ud800"]).text("nothing") == "nothing"


def test_members_whose_name_says_so_are_masked_wherever_they_are() -> None:
    value = {"list": [{"api_key": "x", "max_tokens": 3, "plain": "the-secret"}], "password": 7}

    assert SecretMask(["the-secret"]).json(value) == {
        "list": [{"api_key": MASK, "max_tokens": 3, "plain": MASK}],
        "password": 7,
    }


@pytest.mark.parametrize(
    ("name", "secret"),
    [("api_key", True), ("APIKEY", True), ("auth_token", True), ("max_tokens", False), ("input_tokens", False)],
)
def test_a_name_tells_whether_it_holds_a_secret(name: str, secret: bool) -> None:
    assert names_secret(name) is secret


def test_the_secrets_of_a_plan_are_found_below_everything() -> None:
    plan = {"providers": [{"config": {"api_key": "k1", "nested": {"password": "p1"}, "model": "m"}}]}

    assert secrets_in(plan) == {"k1", "p1"}


def test_a_variable_is_a_secret_by_its_name_or_its_looks() -> None:
    variables = {
        "GREETING": "Good morning",
        "PROJECT": "amplifier-app-api",
        "RELEASE": "v2026.11",
        "DB_PASSWORD": "tulips",
        "SERVICE_TOKEN": "abc",
        "KEY_OF_SOMEBODY": "sk-proj-4f9a81c2d7e6",
        "DSN": "postgresql://me:pw@db.internal/app",
        "NOTE": "there are 12 months in a year",
    }

    assert secret_variables(variables) == {
        "tulips",
        "abc",
        "sk-proj-4f9a81c2d7e6",
        "postgresql://me:pw@db.internal/app",
    }
