"""Filters of lists."""

from typing import Annotated

from fastapi import Query

from amplifier_app_api.models.fields import Text

TagFilter = Annotated[
    Text | None,
    Query(max_length=1201, pattern="^[^=]+=", description="Only with this tag: `key=value`", examples=["env=dev"]),
]
