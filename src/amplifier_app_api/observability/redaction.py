"""Which names hold secrets: what they name is never shown, logged or planned."""

import re

MASK = "***"

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
