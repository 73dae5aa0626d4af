"""Log lines: fields, what is bound, and nothing that looks like a secret."""

import io
import logging
from collections.abc import Iterator

import orjson
import pytest

from amplifier_app_api.observability.logs import configure_logging, log_context

logger = logging.getLogger("amplifier_app_api.test")


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    ours = logging.getLogger("amplifier_app_api")
    stream = io.StringIO()
    configure_logging("info", "json", stream=stream)
    yield stream
    root.handlers, root.level = handlers, level
    ours.setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_a_sentence_with_its_fields_and_what_is_bound(out: io.StringIO) -> None:
    with log_context(request_id="r-1"):
        logger.info("turn ended", extra={"turn_id": "t-1", "input_tokens": 3})

    (line,) = lines(out)
    assert line.pop("timestamp")
    assert line == {
        "event": "turn ended",
        "level": "info",
        "logger": "amplifier_app_api.test",
        "request_id": "r-1",
        "turn_id": "t-1",
        "input_tokens": 3,
    }


def test_what_looks_like_a_secret_is_hidden_wherever_it_stands(out: io.StringIO) -> None:
    fields = {"api_key": "abc", "options": {"password": "hunter2", "model": "m"}, "url": "postgresql://u:pw1@db/x"}
    try:
        raise ValueError("refused: sk-ant-0123456789")
    except ValueError:
        logger.exception("it failed for Bearer abcdefghijk", extra=fields)

    (line,) = lines(out)
    assert line["event"] == "it failed for Bearer [hidden]"
    assert line["api_key"] == "[hidden]"
    assert line["options"] == {"password": "[hidden]", "model": "m"}
    assert line["url"] == "postgresql://[hidden]@db/x"
    assert str(line["exception"]).endswith("ValueError: refused: [hidden]")


def test_libraries_are_heard_from_warning_on(out: io.StringIO) -> None:
    logging.getLogger("httpx2").info("request sent")
    logging.getLogger("httpx2").warning("connection lost")
    logger.debug("detail")

    assert [line["event"] for line in lines(out)] == ["connection lost"]


def test_text_for_people_hides_too(out: io.StringIO) -> None:
    configure_logging("info", "text", stream=out)
    logger.info("key is sk-ant-0123456789")

    assert "key is [hidden]" in out.getvalue()
