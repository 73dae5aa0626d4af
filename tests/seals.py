"""For tests of what has nothing secret to keep."""

from typing import Any

from amplifier_app_api.runtime.journal import Seals
from amplifier_app_api.runtime.masking import SecretMask


def _not_asked_for(value: Any) -> str:
    raise AssertionError("nothing here is secret")


PLAIN = Seals(SecretMask(), _not_asked_for, _not_asked_for)
"""The rows of a session in which nothing is masked."""
