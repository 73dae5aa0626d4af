"""What the rows of a session may not hold as it is: its variables, and messages that hold a secret."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from amplifier_app_api.errors import Unprocessable

if TYPE_CHECKING:
    from amplifier_app_api.core.encryption import SecretBox


class SealedLost(Unprocessable):
    """What a session keeps sealed was sealed with a key that this server does not have."""

    code = "config_not_runnable"
    title = "The session cannot be opened"


class SessionVault:
    """Seals JSON values for the rows of one session each."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._box: SecretBox | None = None

    def _opened(self) -> "SecretBox":
        if self._box is None:
            # Most servers start without a sealed row; the ciphers cost a sixth of a second to import.
            from amplifier_app_api.core.encryption import SecretBox

            self._box = SecretBox.open_or_create(self._key_file)
        return self._box

    def seal(self, session_id: str, value: Any) -> str:
        """The text that a row of the session holds."""
        return self._opened().seal(orjson.dumps(value).decode(), row=session_id)

    def unseal(self, session_id: str, sealed: str) -> Any:
        """The value again."""
        from amplifier_app_api.core.encryption import CannotUnseal

        try:
            return orjson.loads(self._opened().open(sealed, row=session_id))
        except CannotUnseal:
            raise SealedLost("what this session keeps sealed cannot be read: it was sealed with another key") from None
