"""The OpenAPI document: our own problem schema in place of the framework's."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from amplifier_app_api.models.responses import Problem

UNUSED = ("HTTPValidationError", "ValidationError")


def operation_id(route: APIRoute) -> str:
    """The name of the function: stable, and what generated clients call their methods."""
    return route.name


def install_openapi(app: FastAPI) -> None:
    """Give `app` a document whose refusals are problem documents."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs", {}), Problem=problem)
        for name in UNUSED:
            schemas.pop(name, None)
        return document

    app.openapi = openapi
