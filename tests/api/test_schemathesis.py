"""What the OpenAPI document says holds for whatever a client sends, on a real server."""

import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from amplifier_app_api.app import create_app
from amplifier_app_api.settings import Settings

BUNDLE = "bundle: {name: a}\nincludes: [{bundle: foundation}]\nproviders: [{module: provider-scripted}]\n"

# A stream without an end; its refusals have tests of their own.
ENDLESS = "/sessions/{session_id}/events"
# No JSON schema can tell the bar of a bundle's text, a cursor of ours, or the entity tag that a Config has now.
BEYOND_SCHEMAS = [positive_data_acceptance]


@schemathesis.serializer("application/x-ndjson")
def lines(context: schemathesis.SerializationContext, value: object) -> bytes:
    """JSON lines go as the text that they are."""
    return str(value).encode(errors="replace")


DOCUMENT = schemathesis.openapi.from_dict(create_app(Settings.model_construct()).openapi())
OPERATIONS = {
    f"{operation.method.upper()} {operation.path}": operation
    for operation in (found.ok() for found in DOCUMENT.get_all_operations())
    if operation.path != ENDLESS
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    data_dir = tmp_path_factory.mktemp("schemathesis")
    command = [sys.executable, "-m", "amplifier_app_api", "serve", "--port", "0", "--data", str(data_dir)]
    with (
        (data_dir / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[4]
            with httpx2.Client(base_url=address) as client:
                yield client
        finally:
            process.kill()


def things_that_exist(client: httpx2.Client) -> dict[str, str]:
    """A Config and a session, new for every request: some of them are deleted by it."""
    stored = client.post("/configs", json={"name": "a", "yaml_content": BUNDLE}).json()
    opened = client.post("/sessions", json={"config_id": stored["config_id"]}).json()
    return {"config_id": stored["config_id"], "session_id": opened["session_id"]}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_document_tells_the_truth_about(name: str, server: httpx2.Client) -> None:
    @given(case=OPERATIONS[name].as_strategy())
    @settings(
        max_examples=10,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def holds(case: schemathesis.Case) -> None:
        asked: dict[str, object] = case.path_parameters or {}
        # Half of the requests reach something; the others find nothing at their path.
        if len(str(asked)) % 2:
            asked.update((key, value) for key, value in things_that_exist(server).items() if key in asked)
        case.call_and_validate(base_url=str(server.base_url), excluded_checks=BEYOND_SCHEMAS, timeout=30)

    holds()
