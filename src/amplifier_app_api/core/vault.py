"""The variables of sessions, sealed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from amplifier_app_api.errors import Unprocessable

if TYPE_CHECKING:
    from amplifier_app_api.core.encryption import SecretBox


class VariablesLost(Unprocessable):
    """The variables of a session were sealed with a key that this server does not have."""

    code = "config_not_runnable"
    title = "The session cannot be opened"


class VariableVault:
    """Seals the variables of a session for its row."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._box: SecretBox | None = None

    def _opened(self) -> "SecretBox":
        if self._box is None:
            # Most servers start without a sealed row; the ciphers cost a sixth of a second to import.
            from amplifier_app_api.core.encryption import SecretBox

            self._box = SecretBox.open_or_create(self._key_file)
        return self._box

    def seal(self, session_id: str, variables: Mapping[str, str]) -> str:
        """The text that the session's row holds."""
        return self._opened().seal(orjson.dumps(dict(variables)).decode(), row=session_id)

    def unseal(self, session_id: str, sealed: str) -> dict[str, str]:
        """The variables again."""
        from amplifier_app_api.core.encryption import CannotUnseal

        try:
            return orjson.loads(self._opened().open(sealed, row=session_id))
        except CannotUnseal:
            raise VariablesLost(
                "the variables given with the session cannot be read: they were sealed with another key"
            ) from None
