"""`If-None-Match`: an answer that is not sent again while nothing has changed (RFC 9110, 13.1.2)."""

import re

ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')


def names(header: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` names this state; weak and strong tags compare alike."""
    if header is None:
        return False
    return header.strip() == "*" or etag in ENTITY_TAG.findall(header)
