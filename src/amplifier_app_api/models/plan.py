"""A plan: what a session of a bundle would run, before it runs; a validation; the difference of two plans."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from amplifier_app_api.models.fields import Name, Text
from amplifier_app_api.models.responses import ProblemItem

Variables = Annotated[dict[Name, Annotated[Text, Field(max_length=100_000)]], Field(max_length=200)]

_EXAMPLE = "bundle: {name: dev}\nincludes: [{bundle: foundation}]\nproviders: [{module: provider-scripted}]\n"


class Origin(BaseModel):
    """Where something was written.

    `includes` is the way from the document asked about to the one it is in, each as it was written; empty is the
    document itself. `pointer` and `line`, from 1, are places in that document.
    """

    document: str
    includes: list[str] = Field(default_factory=list)
    pointer: str | None = None
    line: int | None = None


class PlanProblem(ProblemItem):
    """Something that stands in the way. `line` and `column` are places in the document asked about.

    `origin` is there when what is wrong was written in another document.
    """

    origin: Origin | None = None


class PlannedModule(BaseModel):
    """One module that would be mounted; `agent` names the agent that brings it, `pointer` is into the mount plan."""

    id: str
    kind: Literal["orchestrator", "context", "provider", "tool", "hook"]
    origin: Literal["builtin", "installed", "source", "missing"]
    source: str | None = None
    commit: str | None = None
    agent: str | None = None
    pointer: str


class PlannedSource(BaseModel):
    """A remote source as it was when it was fetched: `resolved` is the same pinned to a commit or a hash."""

    uri: str
    resolved: str
    commit: str | None = None


class PlannedInclude(BaseModel):
    """An include and what it includes in turn. One that is `repeated` stands in full where it came first."""

    include: str
    name: str
    repeated: bool = False
    includes: list["PlannedInclude"] = Field(default_factory=list)


class PlannedVariable(BaseModel):
    """One use of a variable, and where its value would come from. The value is never shown."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    name: str
    pointer: str
    origin: Annotated[Literal["session", "environment", "default", "missing"], Field(alias="from")]


class Plan(BaseModel):
    """What a session would run.

    Variables stay unexpanded in `mount_plan` and what is written under the name of a secret is masked.
    `provenance` has the origin of every value in it, by JSON pointer. Of a document that is not `storable`
    nothing is composed.
    """

    storable: bool
    runnable: bool
    mount_plan: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Origin] = Field(default_factory=dict)
    modules: list[PlannedModule] = Field(default_factory=list)
    sources: list[PlannedSource] = Field(default_factory=list)
    includes: list[PlannedInclude] = Field(default_factory=list)
    variables: list[PlannedVariable] = Field(default_factory=list)
    problems: list[PlanProblem] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class Validation(BaseModel):
    """What is wrong with a document.

    `storable` and `runnable` are the two bars. `valid` is a document without any problem, also without those that only
    a strict reader minds.
    """

    valid: bool
    storable: bool
    runnable: bool
    problems: list[PlanProblem]
    warnings: list[str]


class Difference(BaseModel):
    """One place of the mount plan that two revisions do not share.

    `pointer` is into the newer plan, for what was removed into the older one. `origin` is where the newer value
    was written, or the one that was removed.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    pointer: str
    change: Literal["added", "removed", "changed"]
    before: Annotated[Any, Field(alias="from")] = None
    after: Annotated[Any, Field(alias="to")] = None
    origin: Origin | None = None


class ConfigDiff(BaseModel):
    """Two revisions of a Config: their texts as the lines of a unified diff, then what they compose to."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    before: Annotated[int, Field(alias="from")]
    after: Annotated[int, Field(alias="to")]
    text: list[str]
    plan: list[Difference]


class VariablesRequest(BaseModel):
    """Body of `POST /configs/{config_id}/validate`: the variables that a session would be given."""

    variables: Variables | None = None


class DocumentRequest(VariablesRequest):
    """Body of `POST /configs/plan` and `POST /configs/validate`. Nothing of it is stored."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"yaml_content": _EXAMPLE}]})

    yaml_content: Text
