from typing import Any

from amplifier_core.message_models import Message

from amplifier_app_api.modules.providers.anthropic_messages import NO_RESULT, SHORTENED, Conversation, translate


def talk(*rows: dict[str, Any]) -> Conversation:
    return translate([Message.model_validate(row) for row in rows])


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def reply(*blocks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks), **fields}


def call(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": call_id, "name": "look", "input": arguments}


def use(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "look", "input": arguments}


def result(call_id: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def result_block(call_id: str, content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def test_leading_system_messages_are_the_system_prompt_and_later_ones_reminders() -> None:
    made = talk(
        {"role": "system", "content": "rules"},
        {"role": "system", "content": "memory"},
        user("hi"),
        {"role": "system", "content": "be brief"},
    )

    assert made.system == [text("rules"), text("memory")]
    assert made.messages == [user([text("hi"), text("<system-reminder>\nbe brief\n</system-reminder>")])]


def test_messages_of_one_role_in_a_row_are_one() -> None:
    made = talk(user("a"), user("b"), reply(text("c")), reply(text("d")), user("e"))

    assert made.messages == [user([text("a"), text("b")]), reply(text("c"), text("d")), user([text("e")])]


def test_results_follow_their_calls_at_once_and_in_order() -> None:
    made = talk(
        user("go"),
        reply(call("a", x=1), call("b")),
        {"role": "system", "content": "note"},
        result("b", "two"),
        result("a", "one"),
        user("and?"),
    )

    note = text("<system-reminder>\nnote\n</system-reminder>")
    assert made.messages[1:] == [
        reply(use("a", x=1), use("b")),
        user([result_block("a", "one"), result_block("b", "two"), note, text("and?")]),
    ]
    assert made.repairs == []


def test_a_call_without_a_result_gets_one_and_a_result_without_a_call_goes() -> None:
    made = talk(user("go"), reply(call("a")), user("hello?"), reply(text("yes")), result("a", "late"), user("ok"))

    lost = {**result_block("a", NO_RESULT), "is_error": True}
    assert made.messages == [
        user([text("go")]),
        reply(use("a")),
        user([lost, text("hello?")]),
        reply(text("yes")),
        user([text("ok")]),
    ]
    assert made.repairs == [{"tool_call_id": "a", "tool_name": "look"}]


def test_calls_that_are_told_only_beside_the_content_count() -> None:
    row = {
        "role": "assistant",
        "content": "looking",
        "tool_calls": [{"id": "a", "tool": "look", "arguments": {"x": 1}}],
    }

    made = talk(user("go"), row, result("a", "seen"))

    assert made.messages[1:] == [reply(text("looking"), use("a", x=1)), user([result_block("a", "seen")])]


def test_only_thoughts_that_this_api_signed_are_shown_to_it_again() -> None:
    signed = {"type": "thinking", "thinking": "hm", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "xyz"}

    made = talk(user("a"), reply(signed, hidden, {"type": "thinking", "thinking": "someone else's"}, text("b")))

    assert made.messages[1] == reply(signed, hidden, text("b"))


def test_blank_texts_and_empty_replies_are_left_out() -> None:
    assert talk(user("a"), reply(text(" ")), user([text(""), text("b")])).messages == [user([text("a"), text("b")])]


def test_images_are_passed_on() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AA=="}
    image = {"type": "image", "source": source}

    made = talk(user([image, text("what is it?")]), reply(call("a")), result("a", [image]))

    assert made.messages[0] == user([image, text("what is it?")])
    assert made.messages[2] == user([result_block("a", [image])])


def test_a_conversation_that_lost_its_start_begins_with_a_users_message() -> None:
    assert talk(reply(text("b"))).messages == [user([text(SHORTENED)]), reply(text("b"))]


def test_ids_of_other_providers_are_made_to_fit() -> None:
    made = talk(user("a"), reply(call("call|1.a")), result("call|1.a", "x"))

    assert made.messages[1:] == [reply(use("call_1_a")), user([result_block("call_1_a", "x")])]


def test_the_prompt_and_the_users_last_two_parts_are_marked_for_caching() -> None:
    made = talk({"role": "system", "content": "rules"}, user("a"), reply(text("b")), user("c"))
    made.mark_for_caching()

    marked = {"cache_control": {"type": "ephemeral"}}
    assert made.system == [{**text("rules"), **marked}]
    assert made.messages == [user([{**text("a"), **marked}]), reply(text("b")), user([{**text("c"), **marked}])]


def test_ids_that_come_again_are_told_apart() -> None:
    rows = [user("go"), reply(call("c", x=1)), result("c", "one"), reply(call("c", x=2)), result("c", "two")]

    made = talk(*rows, reply(call("c_2"), call("c.2")), result("c.2", "b"), result("c_2", "a"))

    assert made.messages[1:] == [
        reply(use("c", x=1)),
        user([result_block("c", "one")]),
        reply(use("c_2", x=2)),
        user([result_block("c_2", "two")]),
        reply(use("c_2_2"), use("c_2_3")),
        user([result_block("c_2_2", "a"), result_block("c_2_3", "b")]),
    ]


def test_two_calls_of_one_reply_under_one_id_are_one() -> None:
    made = talk(user("go"), reply(call("c", x=1), call("c", x=1)), result("c", "seen"))

    assert made.messages[1:] == [reply(use("c", x=1)), user([result_block("c", "seen")])]


def test_a_name_that_is_none_does_not_spoil_the_conversation() -> None:
    names = ["functions.look", "", "l" * 100]
    calls = [{"type": "tool_call", "id": f"c{n}", "name": name, "input": {}} for n, name in enumerate(names)]

    made = talk(user("go"), reply(*calls))

    assert [block["name"] for block in made.messages[1]["content"]] == ["functions_look", "_", "l" * 64]


def test_thoughts_that_lead_to_nothing_are_left_out() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}

    made = talk(user("a"), reply(thought), user("b"), reply(text("c"), thought), user("d"))

    assert made.messages == [user([text("a"), text("b")]), reply(text("c")), user([text("d")])]
