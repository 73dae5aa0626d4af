"""What answers here, whether it works, and what runs."""

import httpx2
from fastapi import FastAPI

from amplifier_app_api import __version__
from amplifier_app_api.services import Services


async def test_the_root_says_what_answers(client: httpx2.AsyncClient) -> None:
    answer = (await client.get("/")).json()

    assert (answer["service"], answer["version"]) == ("Amplifier App api", __version__)
    assert (answer["docs"], answer["health"]) == ("/docs", "/health")


async def test_health_tells_of_the_database_and_the_uptime(client: httpx2.AsyncClient) -> None:
    answer = (await client.get("/health")).json()

    assert (answer["status"], answer["database_connected"]) == ("healthy", True)
    assert answer["uptime"].startswith("Days: 0, Hours: 0, Minutes: 0, Seconds: ")


async def test_a_server_that_runs_is_ready(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/ready")

    assert (answer.status_code, answer.json()) == (200, {"ready": True})


async def test_a_server_that_is_about_to_stop_is_healthy_and_not_ready(
    client: httpx2.AsyncClient, services: Services
) -> None:
    await services.stop_streams()

    health, ready = await client.get("/health"), await client.get("/ready")

    assert (health.status_code, health.json()["status"]) == (200, "healthy")
    assert (ready.status_code, ready.json()["code"]) == (503, "shutting_down")


async def test_version_names_the_parts_that_are_installed(client: httpx2.AsyncClient) -> None:
    answer = (await client.get("/version")).json()

    assert answer["service_version"] == __version__
    assert answer["amplifier_core_version"] == "2.0.2"
    assert answer["amplifier_foundation_version"] is None


async def test_the_documents_are_served(client: httpx2.AsyncClient, app: FastAPI) -> None:
    document = (await client.get("/openapi.json")).json()

    assert document["openapi"].startswith("3.1.")
    identities = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(identities) == len(set(identities))
    assert (await client.get("/docs")).status_code == 200
