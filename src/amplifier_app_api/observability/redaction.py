"""What is secret: which names hold it, and what is to be hidden in the context at hand."""

import contextvars
import re
from collections.abc import Callable

MASK = "***"

hiding: contextvars.ContextVar[Callable[[str], str] | None] = contextvars.ContextVar("hiding", default=None)
"""How the secrets of the session at hand are masked in what is logged."""

_SECRET_NAME = re.compile(
    r"api[_-]?key|token|secret|password|passwd|credential|authorization|private[_-]?key|access[_-]?key", re.IGNORECASE
)
_NOT_SECRET = re.compile(r"max_.*tokens|.*_tokens|tokens|token_budget", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/?#\s'\"]+@")


def names_secret(name: str) -> bool:
    """Whether a member of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None and _NOT_SECRET.fullmatch(name) is None


def without_user_info(text: str) -> str:
    """The text with user and password of every address in it masked."""
    return _USER_INFO.sub(f"{MASK}@", text) if "://" in text else text
