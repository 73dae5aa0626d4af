"""The modules that this server can run without a source: built in, or installed beside it.

    catalog = ModuleCatalog(configs, opener, options)
    await catalog.list_models("provider-anthropic", config_id="…")

A module is told without being imported. Only when its models are asked for, a provider is mounted.
"""

import asyncio
import copy
import difflib
import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from typing import Self

from packaging.requirements import Requirement

from amplifier_app_api.core.config_manager import ConfigManager, ConfigNotFound
from amplifier_app_api.core.fields import InvalidFields
from amplifier_app_api.errors import NotFound
from amplifier_app_api.models.module import Model, Module, ModuleExtra, ModuleKind
from amplifier_app_api.models.page import InvalidPage, Page, PageRequest, make_cursor
from amplifier_app_api.models.principal import LOCAL, Principal
from amplifier_app_api.modules import BUILTIN_MODULES, BuiltinModule
from amplifier_app_api.modules.schemas import schema_of
from amplifier_app_api.runtime.model_listing import ModelLister
from amplifier_app_api.runtime.opening import SessionOpener
from amplifier_app_api.runtime.options import RuntimeOptions

DISTRIBUTION = "amplifier-app-api"

# As the kernel takes the id of a module that does not say of which kind it is: the first of these that is in it.
_WORDS: Sequence[tuple[str, ModuleKind]] = (
    ("orchestrat", "orchestrator"),
    ("loop", "orchestrator"),
    ("provider", "provider"),
    ("tool", "tool"),
    ("hook", "hook"),
    ("context", "context"),
)


class ModuleNotFound(NotFound):
    """No module of this id is built in or installed."""

    title = "The module does not exist"

    def __init__(self, module_id: str, known: Iterable[str] = ()) -> None:
        near = difflib.get_close_matches(module_id[:200], known, n=3, cutoff=0.6)
        meant = f"; did you mean {' or '.join(near)}?" if near else "."
        super().__init__(f"There is no module {module_id[:200]!r}{meant}", facts={"near": near})


class ModuleCatalog:
    """The modules that one caller may name, and the models of providers with the options of the caller's Configs."""

    def __init__(
        self, configs: ConfigManager, opener: SessionOpener, options: RuntimeOptions, *, principal: Principal = LOCAL
    ) -> None:
        self._configs = configs
        self._table = opener.modules
        self._lister = ModelLister(opener, options)
        self._principal = principal

    def scoped(self, principal: Principal) -> Self:
        """The same catalog for another caller."""
        scoped = copy.copy(self)
        scoped._configs = self._configs.scoped(principal)
        scoped._principal = principal
        return scoped

    async def page_modules(self, page: PageRequest, *, kind: ModuleKind | None = None) -> Page[Module]:
        """One page of the modules, in alphabetical order; of one kind when it is given."""
        return await asyncio.to_thread(self._page, page, kind)

    async def get_module(self, module_id: str) -> Module | None:
        """What is known of a module."""
        return await asyncio.to_thread(self._module, module_id)

    async def list_models(self, module_id: str, *, config_id: str | None = None) -> list[Model]:
        """The models of a provider, as it tells of them now; with the options that a Config gives it, or with none.

        Without a key, or with options that the provider refuses, it is `NotRunnable`; see `ModelLister`.
        """
        module = await self.get_module(module_id)
        if module is None:
            raise self.unknown(module_id)
        if module.kind != "provider":
            raise InvalidFields.of("models", f"may be asked of a provider, and {module_id} is of kind {module.kind}")
        text = await self._text(module_id, config_id)
        return await self._lister.models(module_id, text, tenant=self._principal.tenant_id)

    def unknown(self, module_id: str) -> ModuleNotFound:
        """The refusal for an id that no module has, with those that may have been meant."""
        return ModuleNotFound(module_id, self._ids())

    async def _text(self, module_id: str, config_id: str | None) -> str:
        if config_id is None:
            loop = {"orchestrator": "loop-basic", "context": "context-simple"}
            return json.dumps({"bundle": {"name": "models"}, "session": loop, "providers": [{"module": module_id}]})
        config = await self._configs.get_config(config_id)
        if config is None:
            raise ConfigNotFound(config_id)
        return config.yaml_content

    def _ids(self) -> list[str]:
        return sorted({*BUILTIN_MODULES, *self._table.installed()})

    def _page(self, page: PageRequest, kind: ModuleKind | None) -> Page[Module]:
        every = [module_id for module_id in self._ids() if kind is None or self._kind(module_id) == kind]
        after = _id_after(page)
        rest = every[page.offset :] if after is None else [module_id for module_id in every if module_id > after]
        shown = rest[: page.limit]
        found = [module for module_id in shown if (module := self._module(module_id)) is not None]
        return Page(found, len(every), make_cursor(shown[-1], "") if len(rest) > page.limit else None)

    def _module(self, module_id: str) -> Module | None:
        builtin = BUILTIN_MODULES.get(module_id)
        if builtin is not None:
            return Module(
                id=builtin.id,
                kind=builtin.kind,
                origin="builtin",
                description=builtin.description,
                extra=_extra(builtin),
                options=schema_of(builtin.id),
            )
        if module_id not in self._table.installed():
            return None
        return Module(
            id=module_id, kind=self._kind(module_id), origin="installed", description=self._table.summary(module_id)
        )

    def _kind(self, module_id: str) -> ModuleKind:
        builtin = BUILTIN_MODULES.get(module_id)
        if builtin is not None:
            return builtin.kind
        kinds: list[ModuleKind] = [kind for word, kind in _WORDS if word in module_id]
        return kinds[0] if kinds else "tool"


def _extra(module: BuiltinModule) -> ModuleExtra | None:
    return None if module.extra is None else ModuleExtra(name=module.extra, installed=is_installed(module.extra))


def is_installed(extra: str) -> bool:
    """Whether everything that an extra of this server brings is installed, in any version."""
    wanted = [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or ()]
    of_extra = [each for each in wanted if each.marker is not None and _asks_for(each, extra)]
    return bool(of_extra) and all(_is_there(each.name) for each in of_extra)


def _asks_for(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _is_there(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _id_after(page: PageRequest) -> str | None:
    after = page.after()
    if after is None:
        return None
    name, rest = after
    if rest or not name:
        raise InvalidPage("cursor is not one that this list made")
    return name
