"""What would run, before it runs: plans and validations of documents, of Configs, and what two revisions differ in.

A bundle is prepared the way a session prepares it, so a plan and a session agree. A document that is wrong is no
error here: what is wrong with it is the answer.
"""

import asyncio
import copy
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Self

from amplifier_app_api.bundles import Document, PreparedBundle, Sources, VariableScope, parse_document
from amplifier_app_api.bundles.diff import Composed, differences, unified_lines
from amplifier_app_api.bundles.plan import plan_of, shown
from amplifier_app_api.bundles.sources import Hold
from amplifier_app_api.bundles.strict import misspelt_sections, unknown_sections
from amplifier_app_api.bundles.tracing import Trace, trace
from amplifier_app_api.bundles.validation import check_storable_document, located
from amplifier_app_api.core.config_manager import ConfigManager, ConfigNotFound, RevisionNotFound
from amplifier_app_api.core.module_options import options_without_meaning
from amplifier_app_api.errors import ErrorItem, Invalid
from amplifier_app_api.models.plan import ConfigDiff, Difference, Plan, PlanProblem, Validation
from amplifier_app_api.models.principal import LOCAL, Principal
from amplifier_app_api.runtime.opening import SessionOpener
from amplifier_app_api.runtime.options import RuntimeOptions

Prepare = Callable[[Document], Awaitable[PreparedBundle]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Plans documents. `prepare` is what a session does with one, `sources` where its references may lead."""

    prepare: Prepare
    sources: Sources
    environment: Mapping[str, str] = field(repr=False)
    env_allow: tuple[str, ...]

    async def plan(self, text: str, variables: Mapping[str, str] | None = None) -> Plan:
        """What a session of this text would run, when it is opened with these variables."""
        try:
            document = await asyncio.to_thread(self.parsed, text)
        except Invalid as refusal:
            return unread_plan(refusal)
        return await self.plan_document(document, variables)

    async def validate(self, text: str, variables: Mapping[str, str] | None = None) -> Validation:
        """Everything that is wrong with a text, also what only a strict reader minds."""
        try:
            document = await asyncio.to_thread(self.parsed, text)
        except Invalid as refusal:
            return unread_validation(refusal)
        return await self.validate_document(document, variables)

    async def compare(self, before: str, after: str) -> list[Difference]:
        """What two texts compose to differently."""
        plans = [await self._composed(text) for text in (before, after)]
        return await asyncio.to_thread(differences, *plans)

    async def plan_document(self, document: Document, variables: Mapping[str, str] | None = None) -> Plan:
        """`plan` for a document that passed the storable bar."""
        prepared = await self.prepare(document)
        return await asyncio.to_thread(self._plan_of, document, prepared, variables or {})

    async def validate_document(self, document: Document, variables: Mapping[str, str] | None = None) -> Validation:
        """`validate` for a document that passed the storable bar."""
        prepared = await self.prepare(document)
        return await asyncio.to_thread(self._validation_of, document, prepared, variables or {})

    def parsed(self, text: str) -> Document:
        """The document of a text, refused below the storable bar."""
        document = parse_document(text, self.sources.limits)
        check_storable_document(document)
        return document

    async def _composed(self, text: str) -> Composed:
        try:
            document = await asyncio.to_thread(self.parsed, text)
        except Invalid as refusal:
            return Composed(unread_plan(refusal), {})
        prepared = await self.prepare(document)
        plan = await asyncio.to_thread(self._plan_of, document, prepared, {})
        return Composed(plan, prepared.mount_plan)

    def _plan_of(self, document: Document, prepared: PreparedBundle, variables: Mapping[str, str]) -> Plan:
        return self._planned(prepared, trace(document, self.sources, prepared.sources), variables)

    def _planned(self, prepared: PreparedBundle, found: Trace, variables: Mapping[str, str]) -> Plan:
        plan = plan_of(prepared, found, self._scope(variables))
        return plan.model_copy(update={"warnings": [*plan.warnings, *options_without_meaning(prepared)]})

    def _validation_of(self, document: Document, prepared: PreparedBundle, variables: Mapping[str, str]) -> Validation:
        found = trace(document, replace(self.sources, strict_cycles=True), prepared.sources)
        circles = [
            shown(located(item, document), found.origin_of(item))
            for item in found.problems
            if item.code == "include_cycle"
        ]
        plan = self._planned(prepared, found, variables)
        minded = [*circles, *map(shown, misspelt_sections(document))]
        return _validation(plan, minded, tuple(unknown_sections(document)))

    def _scope(self, variables: Mapping[str, str]) -> VariableScope:
        return VariableScope(variables, self.environment, self.env_allow)


class ConfigPlanner:
    """Plans the Configs of one tenant, and documents that are not stored."""

    def __init__(
        self, configs: ConfigManager, opener: SessionOpener, options: RuntimeOptions, *, principal: Principal = LOCAL
    ) -> None:
        self._configs = configs
        self._opener = opener
        self._options = options
        self._principal = principal

    def scoped(self, principal: Principal) -> Self:
        """The same planner for another caller."""
        scoped = copy.copy(self)
        scoped._configs = self._configs.scoped(principal)
        scoped._principal = principal
        return scoped

    async def plan_document(self, text: str, variables: Mapping[str, str] | None = None) -> Plan:
        """What a session of this text would run."""
        async with self._planner() as planner:
            return await planner.plan(text, variables)

    async def validate_document(self, text: str, variables: Mapping[str, str] | None = None) -> Validation:
        """What is wrong with a text."""
        async with self._planner() as planner:
            return await planner.validate(text, variables)

    async def plan_config(self, config_id: str, revision: int | None = None) -> Plan:
        """What a session of a Config would run; the newest revision unless one is given."""
        return await self.plan_document(await self._text(config_id, revision))

    async def validate_config(
        self, config_id: str, revision: int | None = None, variables: Mapping[str, str] | None = None
    ) -> Validation:
        """What is wrong with the text of a Config."""
        return await self.validate_document(await self._text(config_id, revision), variables)

    async def diff_config(self, config_id: str, before: int, after: int) -> ConfigDiff:
        """What two revisions of a Config do not share."""
        old, new = await self._text(config_id, before), await self._text(config_id, after)
        names = (f"revision {before}", f"revision {after}")
        lines = await asyncio.to_thread(unified_lines, old, new, names)
        async with self._planner() as planner:
            changes = await planner.compare(old, new)
        return ConfigDiff(before=before, after=after, text=lines, plan=changes)

    async def _text(self, config_id: str, revision: int | None) -> str:
        if revision is not None:
            found = await self._configs.get_revision(config_id, revision)
            if found is not None:
                return found.yaml_content
        config = await self._configs.get_config(config_id)
        if config is None:
            raise ConfigNotFound(config_id)
        if revision is not None:
            raise RevisionNotFound(revision)
        return config.yaml_content

    @asynccontextmanager
    async def _planner(self) -> AsyncGenerator[Planner]:
        """A planner, and whatever it fetches as long as it is used."""
        tenant = self._principal.tenant_id
        names = await self._opener.names_of(tenant)

        async def prepared(document: Document) -> PreparedBundle:
            return await self._opener.prepared(document.text, tenant=tenant, installs=False)

        with Hold() as hold:
            yield Planner(
                prepare=prepared,
                sources=self._opener.sources(names, hold),
                environment=self._options.environment,
                env_allow=self._options.env_allow,
            )


def unread_plan(refusal: Invalid) -> Plan:
    """The plan of what cannot be stored: nothing but its problems."""
    items = refusal.items or (ErrorItem(code=refusal.code, detail=refusal.detail),)
    return Plan(storable=False, runnable=False, problems=[shown(item) for item in items])


def unread_validation(refusal: Invalid) -> Validation:
    """The validation of what cannot be stored."""
    return _validation(unread_plan(refusal))


def _validation(plan: Plan, minded: Sequence[PlanProblem] = (), warnings: Sequence[str] = ()) -> Validation:
    problems = [*plan.problems, *minded]
    return Validation(
        valid=not problems,
        storable=plan.storable,
        runnable=plan.runnable,
        problems=problems,
        warnings=[*plan.warnings, *warnings],
    )
