"""The two ways to tell a helper what to add.

As JSON, `{"module", "source", "config"}`; or the predecessor's way, with the names as query parameters and the
module's options as the body. A query parameter that names the module decides.
"""

from typing import Annotated, Any, TypeVar

from fastapi import Body, Depends, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError, WithJsonSchema

from amplifier_app_api.models import BundleRequest, ModuleRequest
from amplifier_app_api.models.fields import JsonObject, Name, Text

Shape = TypeVar("Shape", bound=BaseModel)

# What the document says of the body; the other form is told in words, for a schema of both would say nothing.
ModuleBody = Annotated[
    Annotated[JsonObject, WithJsonSchema(ModuleRequest.model_json_schema())] | None,
    Body(description="The entry; with the module in the query: its `config` alone, or nothing"),
]
BundleBody = Annotated[BundleRequest | None, Body(description="The include; nothing with `bundle_uri` in the query")]
OldName = Annotated[Name | None, Query(description="The module, when the body is its `config`", deprecated=True)]
OldSource = Annotated[Text | None, Query(max_length=2000, description="Its source", deprecated=True)]


async def asked_tool(
    tool_module: OldName = None, tool_source: OldSource = None, body: ModuleBody = None
) -> ModuleRequest:
    """The tool to add."""
    return _module(tool_module, tool_source, body)


async def asked_provider(
    provider_module: OldName = None, provider_source: OldSource = None, body: ModuleBody = None
) -> ModuleRequest:
    """The provider to add."""
    return _module(provider_module, provider_source, body)


async def asked_bundle(
    bundle_uri: Annotated[Text | None, Query(max_length=2000, description="The bundle", deprecated=True)] = None,
    body: BundleBody = None,
) -> BundleRequest:
    """The bundle to include."""
    if bundle_uri is not None:
        return _checked(BundleRequest, {"bundle_uri": bundle_uri})
    return body or _checked(BundleRequest, {})


def _module(name: str | None, source: str | None, body: dict[str, Any] | None) -> ModuleRequest:
    if name is None:
        return _checked(ModuleRequest, body or {})
    return ModuleRequest(module=name, source=source or None, config=body)


def _checked(shape: type[Shape], value: dict[str, Any]) -> Shape:
    try:
        return shape.model_validate(value)
    except ValidationError as problem:
        found = problem.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None


Tool = Annotated[ModuleRequest, Depends(asked_tool)]
Provider = Annotated[ModuleRequest, Depends(asked_provider)]
Include = Annotated[BundleRequest, Depends(asked_bundle)]
Replace = Annotated[bool, Query(description="Merge into the entry of the same module instead of refusing it")]
