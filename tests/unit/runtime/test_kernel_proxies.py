"""What modules may do with the stand-ins that the host gives them."""

import copy
from dataclasses import dataclass
from typing import Any

from amplifier_app_api.runtime.kernel.proxies import ProviderProxy


@dataclass
class Provider:
    """A provider as third parties write one: it keeps the coordinator that it was mounted with."""

    coordinator: Any

    async def complete(self, request: Any, **kwargs: Any) -> Any:
        """Answer with what asks through which coordinator."""
        return f"{request} through {self.coordinator}"


async def test_a_copy_of_a_provider_is_given_another_coordinator_and_the_provider_keeps_its_own() -> None:
    provider = ProviderProxy(Provider("the session's"), lambda: None)

    beside = copy.copy(provider)
    beside.coordinator = None

    assert await beside.complete("a title") == "a title through None"
    assert await provider.complete("an answer") == "an answer through the session's"
    assert isinstance(beside, Provider)
