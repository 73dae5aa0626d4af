"""A tool call's arguments out of the text that a model wrote them in."""

from __future__ import annotations

import json
from typing import Any, cast

from amplifier_app_api.modules.kernel import StreamError


def arguments_of(text: str | None, *, cut_off: bool, provider: str, model: str) -> dict[str, Any] | None:
    """None for a call that was cut off by the limit on tokens, and is not made; `StreamError` for a broken one."""
    try:
        arguments: Any = json.loads(text or "{}", parse_constant=str)
    except ValueError as error:
        if cut_off:
            return None
        raise StreamError("A tool call's arguments are broken", provider=provider, model=model) from error
    return cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {}
