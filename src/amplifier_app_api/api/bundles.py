"""`/bundles`: the names that documents may include, and the URIs they stand for."""

from typing import Annotated, Any

from fastapi import Depends, Path, Query, Response
from fastapi.exceptions import RequestValidationError

from amplifier_app_api.api.deps import Caller, Paging, Running
from amplifier_app_api.api.idempotency import KEYED, Once
from amplifier_app_api.api.refusals import CHANGING, READING, documented
from amplifier_app_api.api.routing import json_router
from amplifier_app_api.core.bundle_registry import (
    BuiltInBundle,
    BundleExists,
    BundleNotFound,
    BundleRegistry,
    BundleUnresolved,
)
from amplifier_app_api.core.idempotency import RequestKey
from amplifier_app_api.models.bundle import (
    BundleListResponse,
    BundleRefreshResponse,
    BundleRegisterRequest,
    BundleResponse,
    RegisteredBundle,
)
from amplifier_app_api.models.responses import Acknowledgement, ProblemItem

router = json_router(prefix="/bundles", tag="bundles")

Name = Annotated[str, Path()]


async def scoped_bundles(services: Running, principal: Caller) -> BundleRegistry:
    """The names that the caller may see."""
    return services.bundles.scoped(principal)


Bundles = Annotated[BundleRegistry, Depends(scoped_bundles)]

REPLACED: dict[int | str, dict[str, Any]] = {200: {"model": BundleResponse, "description": "It had the name before"}}


@router.post("", status_code=201, responses={**REPLACED, **documented(BundleExists, *KEYED, *CHANGING)})
async def register_bundle(
    body: BundleRegisterRequest,
    bundles: Bundles,
    response: Response,
    once: Once,
    replace: Annotated[bool, Query(description="Give the name to this one if it is taken")] = False,
) -> BundleResponse:
    """Let a name stand for a bundle's URI, for all configs of this tenant."""
    uri = _uri_of(body)

    async def register(key: RequestKey | None) -> tuple[RegisteredBundle, bool]:
        return await bundles.register_bundle(
            uri, name=body.name, description=body.description, replace=replace, key=key
        )

    bundle, is_new = await once(register, bundles.registered_before)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/bundles/{bundle.name}"
    done = "registered" if is_new else "replaced"
    return BundleResponse(**bundle.model_dump(), message=f"Bundle {done} successfully")


@router.get("", responses=documented(*READING))
async def list_bundles(bundles: Bundles, page: Paging) -> BundleListResponse:
    """The names a document may include, in alphabetical order; those that came with the server among them."""
    found = await bundles.page_bundles(page)
    return BundleListResponse(
        bundles=found.items,
        total=found.total,
        limit=page.limit,
        offset=page.offset,
        next_cursor=found.next_cursor,
    )


@router.get("/{name}", responses=documented(BundleNotFound, *READING))
async def get_bundle(name: Name, bundles: Bundles) -> BundleResponse:
    """What a name stands for."""
    bundle = await bundles.get_bundle(name)
    if bundle is None:
        raise BundleNotFound(name)
    return BundleResponse(**bundle.model_dump())


@router.post("/{name}/refresh", responses=documented(BundleNotFound, BundleUnresolved, *READING))
async def refresh_bundle(name: Name, bundles: Bundles) -> BundleRefreshResponse:
    """Look again where a name leads. A branch may have moved: sessions opened from now on run what is there."""
    found = await bundles.refresh_bundle(name)
    if found is None:
        raise BundleNotFound(name)
    return BundleRefreshResponse(
        name=found.bundle.name,
        uri=found.bundle.uri,
        commit=found.commit,
        sha256=found.sha256,
        problems=[ProblemItem(**problem.as_json()) for problem in found.problems],
        message="Bundle refreshed successfully",
    )


@router.delete("/{name}", responses=documented(BundleNotFound, BuiltInBundle, *READING))
async def delete_bundle(name: Name, bundles: Bundles) -> Acknowledgement:
    """Forget a name. Configs that include it stay, and cannot be opened until it stands for something again."""
    if not await bundles.delete_bundle(name):
        raise BundleNotFound(name)
    return Acknowledgement(
        message="Bundle deleted successfully; configs that include it by this name are bundle_not_found from now on"
    )


def _uri_of(body: BundleRegisterRequest) -> str:
    """The URI, which the predecessor's clients call `source`."""
    uri = body.uri or body.source
    if uri is None:
        raise RequestValidationError([{"type": "missing", "loc": ("body", "uri"), "msg": "Field required"}])
    if body.source not in (None, uri):
        problem = {
            "type": "value_error",
            "loc": ("body", "source"),
            "msg": "is another word for uri and says otherwise",
        }
        raise RequestValidationError([problem])
    return uri
