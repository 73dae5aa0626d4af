"""A tool call's arguments out of the text that a model wrote them in."""

from __future__ import annotations

import json
from typing import Any, cast

from amplifier_app_api.modules.kernel import StreamError


def arguments_of(text: str | None, *, cut_off: bool, provider: str, model: str) -> dict[str, Any] | None:
    """None for a call that was `cut_off` before it was complete, and is not made; `StreamError` for a broken one.

    Nothing at all stands for no arguments, unless it is where the answer was cut off.
    """
    try:
        arguments: Any = None if not text else json.loads(text, parse_constant=str)
        if isinstance(arguments, str):  # some servers write the JSON into a JSON text
            arguments = json.loads(arguments, parse_constant=str)
    except ValueError as error:
        if cut_off:
            return None
        raise StreamError("A tool call's arguments are broken", provider=provider, model=model) from error
    if isinstance(arguments, dict):
        return cast("dict[str, Any]", arguments)
    if cut_off:
        return None
    if arguments is None or arguments == []:
        return {}
    raise StreamError("A tool call's arguments are no object", provider=provider, model=model)
