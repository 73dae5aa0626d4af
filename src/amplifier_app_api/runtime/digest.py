"""One short text for exactly these arguments."""

import hashlib
from typing import Any

import orjson

from amplifier_app_api.runtime.kernel.proxies import json_copy


def digest_of(arguments: Any) -> str:
    """The SHA-256, in hexadecimal, of the arguments as JSON with sorted names and no white space."""
    canonical = orjson.dumps(json_copy(arguments), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()
