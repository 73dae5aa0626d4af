from typing import Any

import pytest
from amplifier_core.llm_errors import ConfigurationError

from amplifier_app_api.modules.options import Options


def options(**values: Any) -> Options:
    return Options("a-module", values)


def test_texts_from_the_environment_count_as_what_they_say() -> None:
    given = options(number="1.5", whole="7", yes="true", no="off")

    assert given.number("number", 0) == 1.5
    assert given.integer("whole", 0) == 7
    assert (given.flag("yes", False), given.flag("no", True)) == (True, False)


def test_an_absent_option_has_its_default() -> None:
    given = options(nothing=None, empty="")

    assert (given.number("a", 2.5), given.integer("b", 3), given.flag("c", True)) == (2.5, 3, True)
    assert (given.text("nothing"), given.text("empty"), given.texts("d")) == (None, None, [])


def test_one_text_is_a_list_of_one() -> None:
    assert options(files="a.md").texts("files") == ["a.md"]


@pytest.mark.parametrize(
    ("read", "value", "sentence"),
    [
        (lambda o: o.integer("x", 0), 1.5, "must be a whole number"),
        (lambda o: o.integer("x", 0, minimum=1), 0, "must be at least 1"),
        (lambda o: o.number("x", 0), "many", "must be a number"),
        (lambda o: o.number("x", 0), True, "must be a number"),
        (lambda o: o.number("x", 0), float("nan"), "must be a number"),
        (lambda o: o.number("x", 0), 10**400, "must be a number"),
        (lambda o: o.number("x", 0, maximum=1), 2, "must be at most 1"),
        (lambda o: o.flag("x", False), "perhaps", "must be true or false"),
        (lambda o: o.text("x"), ["a"], "must be a text"),
        (lambda o: o.texts("x"), [1], "must be a list of texts"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(read: Any, value: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read(options(x=value))

    assert str(raised.value) == f"a-module: option 'x' {sentence}"
