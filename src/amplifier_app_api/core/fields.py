"""The fields a manager is given, checked by the models that check them for HTTP."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from amplifier_app_api.errors import ErrorItem, Unprocessable
from amplifier_app_api.models.config import ConfigUpdateRequest
from amplifier_app_api.models.fields import place_of, storable_text

M = TypeVar("M", bound=BaseModel)


class InvalidFields(Unprocessable, ValueError):
    """A name, a tag or another field is not one that can be stored; the items name each."""

    @classmethod
    def of(cls, name: str, problem: str) -> "InvalidFields":
        """The refusal of one field."""
        detail = f"{name} {problem}"
        return cls(detail, items=[ErrorItem(code=cls.code, detail=detail, pointer=f"/{name}")])


def valid(model: type[M], fields: Mapping[str, Any]) -> M:
    """The model of these fields, or `InvalidFields`."""
    try:
        return model.model_validate(dict(fields), strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
    items = [ErrorItem(code=InvalidFields.code, detail=each["msg"], pointer=_pointer(each["loc"])) for each in problems]
    first = items[0]
    raise InvalidFields(f"{(first.pointer or '')[1:]}: {first.detail}", items=items)


def merged_tags(current: Mapping[str, str], changes: Mapping[str, str | None] | None) -> dict[str, str]:
    """Tags after a merge patch: null removes one, null in place of them all removes all."""
    if changes is None:
        return {}
    merged = {**current, **changes}
    tags = {key: value for key, value in merged.items() if value is not None}
    return valid(ConfigUpdateRequest, {"tags": tags}).tags or {}


def tag_pair(tag: str | None) -> tuple[str, str] | None:
    """Key and value of a filter `key=value`."""
    if tag is None:
        return None
    key, equals, value = tag.partition("=")
    if not key or not equals or not is_storable(tag):
        raise InvalidFields.of("tag", "must have the form key=value")
    return key, value


def is_storable(text: str) -> bool:
    """Whether a database can hold the text at all; one that is not is the id of nothing."""
    try:
        storable_text(text)
    except ValueError:
        return False
    return True


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in place_of(location))
