"""A module that this server can run, and a model that a provider can ask."""

from typing import Any, Literal

from pydantic import BaseModel, Field

ModuleKind = Literal["orchestrator", "context", "provider", "tool", "hook"]


class ModuleExtra(BaseModel):
    """The optional dependency that a module needs, as in `pip install amplifier-app-api[name]`."""

    name: str
    installed: bool


class Model(BaseModel):
    """A model as its provider tells of it; sizes in tokens, null where it does not say."""

    id: str
    display_name: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    capabilities: list[str] = Field(default_factory=list)


class Module(BaseModel):
    """A module that configs may name without a source.

    `options` is the JSON Schema (2020-12) of its `config:`; of an installed module it is not known, and `kind` is
    what the kernel takes such an id for.
    """

    id: str
    kind: ModuleKind
    origin: Literal["builtin", "installed"]
    description: str | None = None
    extra: ModuleExtra | None = None
    options: dict[str, Any] | None = None


class ModuleResponse(Module):
    """A module; `models` are those of a provider, when they were asked for."""

    models: list[Model] | None = None


class ModuleListResponse(BaseModel):
    """A page of the modules that this server can run, in alphabetical order."""

    modules: list[Module]
    total: int
    limit: int
    offset: int
    next_cursor: str | None = None
