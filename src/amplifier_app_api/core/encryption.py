"""The sealed box: texts that are secrets at rest.

AES-256-GCM with a fresh nonce for every text. The identity of the row goes in as associated data, so a sealed
text that is moved to another row does not open. A sealed text reads `sealed.1.<key id>.<nonce and ciphertext>`:
the version and the key's id come first, so that a later ring of keys knows which one to take.
"""

import base64
import binascii
import hashlib
import os
import secrets
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = "sealed.1"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class CannotUnseal(Exception):
    """The text was not sealed with this key for this row, or it was changed."""


class UnusableKey(Exception):
    """The key file does not hold a key, or cannot be read."""


class SecretBox:
    """Seals and opens texts with one key. The key shows nowhere."""

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise UnusableKey(f"a key has {_KEY_BYTES} bytes, this one has {len(key)}")
        self._cipher = AESGCM(key)
        self.key_id = hashlib.sha256(b"amplifier-api key id" + key).hexdigest()[:8]

    @classmethod
    def open_or_create(cls, path: Path) -> Self:
        """The box of a key file, which is made, readable by its owner only, where there is none."""
        try:
            if not path.exists():
                _create_key(path)
            key = path.read_bytes()
        except OSError as error:
            raise UnusableKey(f"the key file {path} cannot be used: {error.strerror}") from error
        if len(key) != _KEY_BYTES:
            raise UnusableKey(f"the key file {path} must hold exactly {_KEY_BYTES} bytes, it holds {len(key)}")
        return cls(key)

    def __repr__(self) -> str:
        return f"SecretBox(key_id={self.key_id!r})"

    def seal(self, plaintext: str, *, row: str) -> str:
        """The sealed text; only `open` with the same `row` gives the plaintext back."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        prefix = f"{_VERSION}.{self.key_id}"
        sealed = nonce + self._cipher.encrypt(nonce, plaintext.encode(), _associated(prefix, row))
        return f"{prefix}.{base64.urlsafe_b64encode(sealed).decode('ascii')}"

    def open(self, sealed: str, *, row: str) -> str:
        """The plaintext of a text that was sealed for this row, else `CannotUnseal`."""
        prefix, _, body = sealed.rpartition(".")
        if prefix != f"{_VERSION}.{self.key_id}":
            raise CannotUnseal("the text was sealed with another key, or is not sealed")
        try:
            raw = base64.b64decode(body, altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(raw).decode("ascii") != body:  # unused bits of the last character
                raise ValueError
            plaintext = self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _associated(prefix, row))
        except (InvalidTag, binascii.Error, ValueError):
            raise CannotUnseal("the text was sealed for another row, or was changed") from None
        return plaintext.decode()


def _associated(prefix: str, row: str) -> bytes:
    return f"{prefix}\n{row}".encode()


def _create_key(path: Path) -> None:
    """Publish a whole key at once: of several who try, one wins and the others use its key."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """A key that sealed something must not be lost by a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
