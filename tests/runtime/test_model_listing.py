"""Asking a provider for its models: what a vendor that never answers costs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from amplifier_app_api.modules.providers.clients import open_clients
from amplifier_app_api.runtime.model_listing import AT_ONCE, ModelLister, ModelsTimedOut
from amplifier_app_api.runtime.opening import SessionOpener
from amplifier_app_api.runtime.options import RuntimeOptions

TEXT = """
bundle: {{name: c}}
session: {{orchestrator: loop-basic, context: context-simple}}
providers: [{{module: provider-openai, config: {{api_key: k, base_url: "{address}"}}}}]
"""


class Silence:
    """A server that takes requests and answers none; it knows how many wait and how many hung up."""

    def __init__(self) -> None:
        self.waiting = 0
        self.hung_up = 0
        self.address = ""
        self.changed = asyncio.Condition()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Silence"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = "http://{}:{}/v1".format(*server.sockets[0].getsockname())
        async with server:
            yield self

    async def until(self, *, waiting: int, hung_up: int) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: (self.waiting, self.hung_up) == (waiting, hung_up))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        async with self.changed:
            self.waiting += 1
            self.changed.notify_all()
        await reader.read()
        async with self.changed:
            self.waiting -= 1
            self.hung_up += 1
            self.changed.notify_all()
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def opener(tmp_path: Path) -> AsyncIterator[SessionOpener]:
    made = SessionOpener(RuntimeOptions(data_dir=tmp_path))
    yield made
    await made.close()


async def test_a_vendor_that_never_answers_is_left_in_time(opener: SessionOpener, tmp_path: Path) -> None:
    options = RuntimeOptions(data_dir=tmp_path)

    async with Silence().listening() as silence:
        text = TEXT.format(address=silence.address)
        # Once without a limit, so that the SDK is loaded: that alone may take longer than the limit.
        patient = asyncio.ensure_future(ModelLister(opener, options).models("provider-openai", text, tenant="t"))
        await silence.until(waiting=1, hung_up=0)
        patient.cancel()
        await silence.until(waiting=0, hung_up=1)
        with pytest.raises(ModelsTimedOut) as raised:
            await ModelLister(opener, options, limit=timedelta(seconds=3)).models("provider-openai", text, tenant="t")
        await silence.until(waiting=0, hung_up=2)

    assert (raised.value.status, raised.value.code) == (504, "provider_timeout")
    assert open_clients("openai") == 0


async def test_few_are_asked_at_a_time_and_who_gives_up_makes_room(opener: SessionOpener, tmp_path: Path) -> None:
    lister = ModelLister(opener, RuntimeOptions(data_dir=tmp_path))

    async with Silence().listening() as silence:
        text = TEXT.format(address=silence.address)
        asking = [asyncio.ensure_future(lister.models("provider-openai", text, tenant="t")) for _ in range(AT_ONCE + 1)]
        await silence.until(waiting=AT_ONCE, hung_up=0)
        asking[0].cancel()
        await silence.until(waiting=AT_ONCE, hung_up=1)
        for task in asking:
            task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        await silence.until(waiting=0, hung_up=AT_ONCE + 1)

    assert [type(each) for each in ended] == [asyncio.CancelledError] * (AT_ONCE + 1)
