"""What a mounted provider says of its models."""

import logging
from collections.abc import Mapping
from typing import Any, cast

from amplifier_app_api.models.module import Model
from amplifier_app_api.runtime.kernel.failures import Failure, failure_of
from amplifier_app_api.runtime.kernel.session import KernelSession

logger = logging.getLogger(__name__)

MOST = 2_000
"""Models of one provider; a list of more is cut short."""


class ListingFailed(Exception):
    """The provider raised. `failure` says what a turn that failed so would be called."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


async def models_of(kernel: KernelSession) -> list[Model]:
    """The models of the session's provider, in its own order."""
    provider = next(iter(cast("Mapping[str, Any]", kernel.session.coordinator.get("providers")).values()))
    try:
        listed = await provider.list_models()
        return [_model(model) for model in list(listed or ())[:MOST]]
    except Exception as error:  # a provider may raise anything; what it was is told, and logged where it is a bug
        failure = failure_of(error)
        if failure.code == "module_failed":
            logger.exception("a provider could not list its models")
        raise ListingFailed(failure) from None


def _model(told: Any) -> Model:
    """From the kernel's `ModelInfo`, or from a bare id, which is all that some modules tell."""
    if isinstance(told, str):
        return Model(id=told, display_name=told)
    return Model(
        id=told.id,
        display_name=told.display_name,
        context_window=told.context_window or None,
        max_output_tokens=told.max_output_tokens or None,
        capabilities=list(told.capabilities),
    )
