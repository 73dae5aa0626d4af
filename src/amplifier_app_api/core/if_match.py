"""`If-Match`: a change that is made only to the state the caller has read (RFC 9110, 13.1.1)."""

import re
from dataclasses import dataclass
from typing import Self

from amplifier_app_api.errors import PreconditionFailed
from amplifier_app_api.models.config import ConfigMetadata

_ENTITY_TAGS = re.compile(r'(?P<weak>W/)?(?P<tag>"[\x21\x23-\x7e\x80-\U0010ffff]*")')


class ConfigChanged(PreconditionFailed):
    """The Config is not in the state that `If-Match` names; `etag` is the one it is in."""

    def __init__(self, current: ConfigMetadata) -> None:
        super().__init__(
            f"The config has changed: its entity tag is {current.etag} now. Read it again and repeat the change.",
            facts={"etag": current.etag},
            headers={"ETag": current.etag},
        )


@dataclass(frozen=True, slots=True)
class IfMatch:
    """The states a caller accepts; None accepts any."""

    tags: frozenset[str] | None

    @classmethod
    def parse(cls, header: str | None) -> Self:
        """From the header's text. Weak tags, and texts that are none, match nothing."""
        if header is None or header.strip() == "*":
            return cls(None)
        found = _ENTITY_TAGS.finditer(header)
        return cls(frozenset(match["tag"] for match in found if match["weak"] is None))

    def check(self, current: ConfigMetadata) -> None:
        """Refuse with `ConfigChanged` when the Config is in another state."""
        if self.tags is not None and current.etag not in self.tags:
            raise ConfigChanged(current)
