"""The models of a provider, as it tells of them: mounted by itself in a kernel session that is thrown away.

Options, variables and keys are those of a session; nothing else of the bundle is mounted, and nothing is stored.
"""

import asyncio
import copy
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from amplifier_app_api.bundles import MissingVariables, NotRunnable, PreparedBundle, VariableScope, expand
from amplifier_app_api.bundles.activation import Activation
from amplifier_app_api.bundles.prompt import BuiltPrompt
from amplifier_app_api.errors import AppError, ErrorItem, TimedOut, Unprocessable
from amplifier_app_api.models.module import Model
from amplifier_app_api.runtime.kernel.failures import Failure
from amplifier_app_api.runtime.kernel.models import ListingFailed, models_of
from amplifier_app_api.runtime.kernel.session import KernelSession, MountFailed, Opening
from amplifier_app_api.runtime.masking import SecretMask, secrets_in
from amplifier_app_api.runtime.opening import SessionOpener, refusal_of
from amplifier_app_api.runtime.options import RuntimeOptions

LIMIT = timedelta(seconds=30)
AT_ONCE = 4
"""Listings of one process at a time; the others wait, within their limit."""

_SESSION = {"orchestrator": {"module": "loop-basic"}, "context": {"module": "context-simple"}}
_BUILTIN = {module: Activation(module, "builtin", None, module) for module in ("loop-basic", "context-simple")}


class ModelsUnavailable(AppError):
    """The provider did not tell its models. Status and code are those that a turn would have failed with."""

    title = "The provider's models cannot be listed"

    def __init__(self, failure: Failure, detail: str) -> None:
        headers = {} if failure.retry_after is None else {"Retry-After": str(max(1, round(failure.retry_after)))}
        super().__init__(detail, headers=headers)
        self.status = failure.status
        self.code = failure.code


class ModelsTimedOut(TimedOut):
    """The provider took longer than it may to tell its models."""

    title = "The provider's models cannot be listed in time"


class ProviderNotNamed(Unprocessable):
    """The config does not name this provider."""

    title = "The config does not name the provider"


class _Unheard:
    """Nobody reads what a module shows while it lists models."""

    def notice(self, level: str, text: str, source: str) -> None:
        pass


class ModelLister:
    """Asks providers for their models, each within `limit`."""

    def __init__(self, opener: SessionOpener, options: RuntimeOptions, *, limit: timedelta = LIMIT) -> None:
        self._opener = opener
        self._options = options
        self._limit = limit
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def models(self, module_id: str, text: str, *, tenant: str) -> list[Model]:
        """The models of a provider with the options that the bundle `text` gives its first entry of that id.

        What stands in the way before the provider is asked is a 422; what it answers is `ModelsUnavailable`.
        """
        prepared = await self._opener.prepared(text, tenant=tenant, installs=False)
        entry, activation = _entry_of(module_id, prepared)
        scope = VariableScope({}, self._options.environment, self._options.env_allow)
        plan = _expanded(entry, scope)
        conflict = await asyncio.to_thread(self._opener.modules.conflict, activation)
        if conflict is not None:
            raise NotRunnable((ErrorItem(code="module_conflict", detail=str(conflict)),))
        mask = SecretMask({*self._options.source_environment().values(), *secrets_in(plan)})
        try:
            async with asyncio.timeout(self._limit.total_seconds()), self._turns:
                return await self._list(plan, activation, mask)
        except TimeoutError:
            raise ModelsTimedOut(f"{module_id} did not list its models in time") from None
        finally:
            self._opener.keep_loaded_sources(prepared)

    async def _list(self, plan: dict[str, Any], activation: Activation, mask: SecretMask) -> list[Model]:
        with tempfile.TemporaryDirectory(prefix="models-", dir=self._options.data_dir) as folder:
            opening = Opening(
                session_id=str(uuid4()),
                plan=plan,
                activations={**_BUILTIN, activation.module: activation},
                working_dir=str(Path(folder)),
                prompt=_no_prompt,
                file_limits={"readable": (), "writable": ()},
            )
            try:
                kernel = await KernelSession.open(opening, self._opener.modules, _Unheard())
            except MountFailed as failed:
                raise _unmounted(failed, activation, mask) from None
            try:
                return await models_of(kernel)
            except ListingFailed as failed:
                raise ModelsUnavailable(failed.failure, mask.text(failed.failure.detail)) from None
            finally:
                await kernel.close()


def _entry_of(module_id: str, prepared: PreparedBundle) -> tuple[Mapping[str, Any], Activation]:
    """The first entry of the provider and where its code is, or a refusal that says what is wrong."""
    entries = prepared.mount_plan.get("providers") or ()
    entry = next((entry for entry in entries if entry.get("module") == module_id), None)
    if entry is None and prepared.problems:
        raise NotRunnable(prepared.problems)
    if entry is None:
        raise ProviderNotNamed(f"The config names no provider {module_id}.")
    activation = prepared.activations.get(module_id)
    if activation is None:
        items = tuple(problem.item for problem in prepared.module_problems if problem.module == module_id)
        raise NotRunnable(items or prepared.problems)
    return entry, activation


def _expanded(entry: Mapping[str, Any], scope: VariableScope) -> dict[str, Any]:
    """A plan of the provider alone, its variables filled in."""
    plan = {"session": copy.deepcopy(_SESSION), "providers": [entry]}
    try:
        return expand(plan, scope)
    except MissingVariables as refusal:
        # Where they stand is the place in the plan of one entry, which nobody knows.
        items = [ErrorItem(code=item.code, detail=item.detail) for item in refusal.items]
        raise MissingVariables(items) from None


def _unmounted(failed: MountFailed, activation: Activation, mask: SecretMask) -> AppError:
    """A built-in provider refuses nothing but its options, or for want of its extra."""
    if activation.kind != "builtin":
        return refusal_of(failed, mask)
    return NotRunnable(
        tuple(ErrorItem(code="module_failed", detail=mask.text(failure.detail)) for failure in failed.failures)
    )


async def _no_prompt() -> BuiltPrompt:
    return BuiltPrompt(None)
