import pytest

from amplifier_app_api.modules.providers.directives import InvalidDirective, Script, ScriptedError, parse, sample


def script_of(text: str) -> Script:
    script, _ = parse(text)
    assert script is not None
    return script


def test_a_text_without_directives_is_a_text() -> None:
    assert parse("see [[the notes]] and [[wiki: page]] [[") == (None, "see [[the notes]] and [[wiki: page]] [[")


def test_directives_are_cut_out_of_the_text_around_them() -> None:
    script, rest = parse("please [[text: hi]] answer [[usage: input=3]]")

    assert rest == "please  answer"
    assert script == Script(text="hi", usage={"input": 3})


def test_directives_that_only_a_network_can_play_do_nothing() -> None:
    assert parse("[[disconnect: after=1]][[headers: x=1]]") == (Script(), "")


def test_brackets_inside_json_do_not_end_a_directive() -> None:
    assert script_of('[[tool: put {"cells": [["a"]], "text": "]]"}]]').rounds == [
        [("put", {"cells": [["a"]], "text": "]]"})]
    ]


def test_each_tool_directive_is_a_round() -> None:
    script = script_of('[[tools: a {"x": 1} | b]] [[tool: c.d-e]] [[then: done]]')

    assert script.rounds == [[("a", {"x": 1}), ("b", None)], [("c.d-e", None)]]
    assert script.then == "done"


def test_an_error_is_read_with_all_its_parts() -> None:
    script = script_of('[[error: status=429 times=2 retry_after=1.5 type=rate_limit_error message="slow down"]]')

    assert script.error == ScriptedError(429, 2, 1.5, "rate_limit_error", "slow down")
    assert script_of("[[error]]").error == ScriptedError(500, None, None, None, "scripted 500")


@pytest.mark.parametrize("text", ["[[slow: tokens=many]]", "[[tool: ]]", "[[usage: input=x]]", "[[error: status=x]]"])
def test_arguments_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InvalidDirective):
        parse(text)


def test_a_directive_that_never_ends_is_text() -> None:
    assert parse("[[text: hi") == (None, "[[text: hi")


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": 5}, 5),
        ({"enum": ["b", "a"]}, "b"),
        ({"default": 3, "type": "integer"}, 3),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"type": ["integer", "null"]}, 1),
        ({"type": "array", "items": {"type": "boolean"}}, []),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 1}, [True]),
        ({"properties": {"a": {"type": "number"}, "b": {}}, "required": ["a"]}, {"a": 1}),
        ({"type": "object", "required": ["a"]}, {"a": "sample"}),
    ],
)
def test_a_sample_fits_its_schema(schema: dict[str, object], value: object) -> None:
    assert sample(schema) == value
