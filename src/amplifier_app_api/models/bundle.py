"""A registered bundle: a name that a tenant's documents may include, and the URI it stands for."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from amplifier_app_api.models.fields import Description, Text, Timestamp
from amplifier_app_api.models.responses import ProblemItem

MAX_URI = 2000
FILE_ENDINGS = (".md", ".yaml", ".yml")


def not_a_file(name: str) -> str:
    """Refuse a name that reads as a file's: an include of that text is a relative path."""
    if name.endswith(FILE_ENDINGS):
        raise ValueError(f"must not end as a file does ({', '.join(FILE_ENDINGS)})")
    return name


# What an include may say without a colon, a slash, or anything else that begins a path or an address.
BundleName = Annotated[
    Text,
    Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", examples=["our-tools"]),
    AfterValidator(not_a_file),
]
BundleUri = Annotated[Text, Field(min_length=1, max_length=MAX_URI)]


class RegisteredBundle(BaseModel):
    """A name and what it stands for. Built-in names have no URI and no times."""

    name: str
    uri: str | None = None
    description: str | None = None
    builtin: bool = False
    created_at: Timestamp | None = None
    updated_at: Timestamp | None = None


class BundleRegisterRequest(BaseModel):
    """Body of `POST /bundles`. `source` is another word for `uri`; without `name` the URI's last part is the name."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "our-tools", "uri": "git+https://github.com/our/tools@main"}]}
    )

    name: BundleName | None = None
    uri: BundleUri | None = None
    source: BundleUri | None = Field(default=None, json_schema_extra={"deprecated": True})
    description: Description | None = None


class BundleResponse(RegisteredBundle):
    """A registered bundle, and what just happened to it."""

    message: str | None = None


class BundleListResponse(BaseModel):
    """A page of the names a document may include, in alphabetical order."""

    bundles: list[RegisteredBundle]
    total: int
    limit: int
    offset: int
    next_cursor: str | None = None


class BundleRefreshResponse(BaseModel):
    """What a name leads to now: the commit when its source is git, the checksum of the bundle's own document.

    `problems` are those of the bundle and of what it includes; none of them keeps the name from standing.
    """

    name: str
    uri: str | None
    commit: str | None
    sha256: str
    problems: list[ProblemItem]
    message: str
