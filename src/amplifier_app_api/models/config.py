"""A Config: a complete Amplifier bundle, stored, versioned and reusable."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from amplifier_app_api.models.fields import NOT_A_SWITCH, Description, JsonObject, Name, Tags, Text, Timestamp


class ConfigMetadata(BaseModel):
    """A Config without its text, as lists show it.

    `revision` counts the texts, `version` every change of the row; together they are the `ETag`.
    """

    config_id: str
    name: str
    description: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    revision: int
    version: int
    sha256: str
    created_at: Timestamp
    updated_at: Timestamp

    @property
    def etag(self) -> str:
        """The strong entity tag of this state of the Config, with its quotes."""
        return f'"{self.revision}.{self.version}"'


class Config(ConfigMetadata):
    """A stored bundle. `yaml_content` is the text as it came, byte for byte."""

    yaml_content: str


class ConfigRevision(BaseModel):
    """One text a Config had. Immutable."""

    revision: int
    sha256: str
    yaml_content: str
    created_at: Timestamp
    created_by: str


class ConfigCreateRequest(BaseModel):
    """Body of `POST /configs`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "dev", "yaml_content": "bundle:\n  name: dev\n"}]}
    )

    name: Name
    yaml_content: Text
    description: Description | None = None
    tags: Tags | None = None


class ConfigUpdateRequest(BaseModel):
    """Body of `PUT /configs/{config_id}`: absent or null leaves a field as it is, `tags` replaces whole."""

    name: Name | None = None
    yaml_content: Text | None = None
    description: Description | None = None
    tags: Tags | None = None


class ConfigPatchRequest(BaseModel):
    """Body of `PATCH /configs/{config_id}`: a JSON merge patch (RFC 7396). Null clears `description` and tags."""

    name: Name | None = None
    yaml_content: Text | None = None
    description: Description | None = None
    tags: dict[str, Annotated[Text, Field(max_length=1000)] | None] | None = None


class ModuleRequest(BaseModel):
    """Body of the tool and provider helpers: one entry of the bundle."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"module": "tool-filesystem", "config": {}}]})

    module: Name
    source: Text | None = None
    config: JsonObject | None = None


class BundleRequest(BaseModel):
    """Body of the bundle helper: one more include."""

    bundle_uri: Annotated[Text, Field(min_length=1, max_length=2000)]


class RevertRequest(BaseModel):
    """Body of `POST /configs/{config_id}/revert`."""

    revision: Annotated[int, Field(ge=1, le=2**31 - 1), NOT_A_SWITCH]


class ConfigResponse(Config):
    """A Config, and what just happened to it."""

    message: str | None = None
    edit: Literal["inserted", "redumped"] | None = None

    @classmethod
    def of(
        cls, config: Config, message: str | None = None, *, edit: Literal["inserted", "redumped"] | None = None
    ) -> "ConfigResponse":
        """The answer that shows `config`."""
        fields: dict[str, Any] = {name: getattr(config, name) for name in type(config).model_fields}
        return cls.model_construct(**fields, message=message, edit=edit)


class ConfigListResponse(BaseModel):
    """A page of Configs, newest change first."""

    configs: list[ConfigMetadata]
    total: int
    limit: int
    offset: int
    next_cursor: str | None = None


class RevisionListResponse(BaseModel):
    """A page of a Config's revisions, newest first."""

    revisions: list[ConfigRevision]
    total: int
    limit: int
    offset: int
    next_cursor: str | None = None
