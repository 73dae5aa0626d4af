"""`provider-azure-openai`: where its calls go, and with which credential."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from amplifier_core.llm_errors import ConfigurationError, ContentFilterError

from amplifier_app_api.modules import load_mount
from doubles.fake_llm import FakeLLM
from provider_talk import Coordinator, request, sent, text

Make = Callable[..., Awaitable[Any]]


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM(record=50) as double:
        yield double


@pytest.fixture
async def make(llm: FakeLLM) -> AsyncIterator[Make]:
    closes: list[Any] = []

    async def mounted(token_provider: Any = None, **options: Any) -> Any:
        coordinator = Coordinator(**{"azure_openai.token_provider": token_provider})
        given = {"azure_endpoint": llm.url, "min_retry_delay": 0, **options}
        closes.append(await load_mount("provider-azure-openai")(coordinator, given))
        return coordinator.provider

    yield mounted
    for close in closes:
        await close()


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({}, "/openai/v1/responses"),
        ({"api": "chat"}, "/openai/v1/chat/completions"),
        ({"api_version": "v1"}, "/openai/v1/responses"),
        ({"api_version": "preview"}, "/openai/v1/responses?api-version=preview"),
        ({"api_version": "2026-10-01"}, "/openai/responses?api-version=2026-10-01"),
        (
            {"api_version": "2026-10-01", "api": "chat", "deployment": "prod"},
            "/openai/deployments/prod/chat/completions?api-version=2026-10-01",
        ),
    ],
)
async def test_the_version_decides_the_paths(make: Make, llm: FakeLLM, options: Any, path: str) -> None:
    assert await text(await make(api_key="k", **options), "hi") == "echo: hi"
    assert llm.recorded()[-1]["headers"][":path"] == path


async def test_a_whole_address_is_taken_as_it_is(make: Make, llm: FakeLLM) -> None:
    await text(await make(api_key="k", base_url=llm.url + "/gateway/v1"), "hi")

    assert llm.recorded()[-1]["headers"][":path"] == "/gateway/v1/responses"


@pytest.mark.parametrize("endpoint", ["{}/", "{}/openai", "{}/openai/"])
async def test_an_endpoint_may_be_written_in_several_ways(make: Make, llm: FakeLLM, endpoint: str) -> None:
    await text(await make(api_key="k", azure_endpoint=endpoint.format(llm.url)), "hi")

    assert llm.recorded()[-1]["headers"][":path"] == "/openai/v1/responses"


@pytest.mark.parametrize(
    ("options", "header", "value"),
    [
        ({"api_key": "k"}, "authorization", "Bearer k"),
        ({"api_key": "k", "api_version": "2026-10-01"}, "api-key", "k"),
        ({"azure_ad_token": "t"}, "authorization", "Bearer t"),
        ({"azure_ad_token": "t", "api_version": "2026-10-01"}, "authorization", "Bearer t"),
    ],
)
async def test_a_key_or_a_token_is_sent(make: Make, llm: FakeLLM, options: Any, header: str, value: str) -> None:
    await text(await make(**options), "hi")

    assert llm.recorded()[-1]["headers"][header] == value


@pytest.mark.parametrize("options", [{}, {"api_version": "2026-10-01"}])
async def test_the_hosts_tokens_are_asked_for_with_every_call(make: Make, llm: FakeLLM, options: Any) -> None:
    tokens = iter(["t1", "t2"])

    async def next_token() -> str:
        return next(tokens)

    provider = await make(next_token, **options)
    await text(provider, "hi")
    await text(provider, "hi")

    assert [call["headers"]["authorization"] for call in llm.recorded()] == ["Bearer t1", "Bearer t2"]


async def test_the_configs_own_key_comes_before_the_hosts_tokens(make: Make, llm: FakeLLM) -> None:
    async def never() -> str:
        raise AssertionError

    await text(await make(never, api_key="k"), "hi")
    await text(await make(never, azure_ad_token="t"), "hi")

    assert [call["headers"]["authorization"] for call in llm.recorded()] == ["Bearer k", "Bearer t"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "provider-azure-openai needs an api_key: write `api_key: ${AZURE_OPENAI_API_KEY}` in its config"),
        (
            {"api_key": "k", "azure_endpoint": None},
            "provider-azure-openai needs an azure_endpoint: write the resource's address in its config",
        ),
        ({"azure_ad_token": "a b"}, "provider-azure-openai: the azure_ad_token holds characters no key has"),
    ],
)
async def test_what_is_missing_is_told(make: Make, options: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        await make(**options)
    assert str(raised.value) == sentence


async def test_a_deployment_is_priced_and_asked_as_the_model_it_is(make: Make, llm: FakeLLM) -> None:
    provider = await make(api_key="k", deployment="prod", base_model="gpt-5.2")
    response = await provider.complete(request("[[usage: input=1000 output=100]]", temperature=0.3))

    assert response.usage.cost_usd == Decimal("0.00315")
    assert (sent(llm)["model"], sent(llm)["include"]) == ("prod", ["reasoning.encrypted_content"])
    assert "temperature" not in sent(llm)
    assert provider.get_info().defaults["context_window"] == 400_000


async def test_azures_filter_is_a_filtered_content(make: Make) -> None:
    with pytest.raises(ContentFilterError):
        await text(await make(api_key="k"), "[[error: status=400 code=content_filter]]")
