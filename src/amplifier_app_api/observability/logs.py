"""What we write down: one line per fact, a constant sentence plus fields.

Everything goes through the standard library: `logging.getLogger(__name__).info("turn ended", extra={...})`.
structlog renders it, as text for a person at a terminal and as JSON elsewhere, and adds what is bound for the
request, the session and the turn at hand (`log_context`). Libraries are heard from `warning` on: below that
some of them tell what they send. What looks like a secret is masked whoever wrote it, and so is
what the session at hand knows to be one.
"""

import logging
import re
import sys
from typing import Any, Literal, TextIO, cast

import orjson
import structlog
from structlog.contextvars import bound_contextvars as log_context
from structlog.typing import EventDict, Processor, WrappedLogger

from amplifier_app_api.observability.redaction import hiding

__all__ = ["configure_logging", "log_context"]

OURS = "amplifier_app_api"
MASK = "[hidden]"

SECRET_NAME = re.compile(
    r"(?i)(api[_-]?key|secret|passw|authorization|credential|cookie|(^|[_-])token$|private[_-]?key)"
)
SECRET_TEXT = re.compile(
    r"\bsk-[A-Za-z0-9_-]{8,}"  # keys of model providers
    r"|\bAIza[A-Za-z0-9_-]{20,}"
    r"|\bgh[opsur]_[A-Za-z0-9]{20,}"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user:password in an address
    r"|(?i:(?<=bearer )[A-Za-z0-9._~+/-]{8,}=*)"
)


def configure_logging(
    level: Literal["debug", "info", "warning", "error"] = "info",
    form: Literal["text", "json"] | None = None,
    *,
    stream: TextIO | None = None,
) -> None:
    """Send every log line of this process to `stream` (standard error), as `form` or as fits the stream."""
    out: TextIO = stream or sys.stderr
    form = form or ("text" if out.isatty() else "json")
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _mask, _renderer(form, out)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, _number(level)))
    logging.getLogger(OURS).setLevel(_number(level))
    logging.captureWarnings(True)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def _renderer(form: Literal["text", "json"], stream: TextIO) -> Processor:
    if form == "json":
        return structlog.processors.JSONRenderer(serializer=_as_json)
    # The plain formatter: the rich one shows local variables, and those hold keys.
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )


def _as_json(event: EventDict, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _mask(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {name: MASK if SECRET_NAME.search(name) and value else masked(value) for name, value in event.items()}


def masked(value: Any) -> Any:
    """`value` with everything hidden that looks like a secret, at any depth."""
    if isinstance(value, str):
        hide = hiding.get()
        return SECRET_TEXT.sub(MASK, value if hide is None else hide(value))
    if isinstance(value, dict):
        pairs = cast("dict[Any, Any]", value).items()
        return {key: MASK if SECRET_NAME.search(str(key)) and part else masked(part) for key, part in pairs}
    if isinstance(value, list | tuple):
        return [masked(part) for part in cast("list[Any]", value)]
    return value


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]
