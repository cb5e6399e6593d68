"""Administration of the models that are served: load, unload, reload, labels. For administrators only."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field

from service.api.auth import RequireAdmin
from service.api.findings import refuse_repeated, refuse_unknown
from service.api.openapi import problem_responses
from service.api.services import Services, ServicesOf
from service.registry import VersionState

router = APIRouter(
    prefix="/admin/models",
    tags=["administration"],
    dependencies=[RequireAdmin, Depends(refuse_repeated), Depends(refuse_unknown)],
)

_STATUSES = (404, 409, 422, 500, 503)
Name = Annotated[str, Path(description="Of a model: its folder's name.", max_length=64)]
Label = Annotated[str, Path(description="Such as `stable` or `canary`; `default` is what the name alone stands for.")]
Version = Annotated[str | None, Query(description="One version; all of the model where not given.", max_length=64)]


class ManagedVersion(BaseModel):
    """One version of one model, in memory or in the folder."""

    name: str
    version: str
    state: str = Field(description="`ready`, `failed` or `unloaded`.")
    labels: list[str]
    reason: str | None = Field(description="Why it cannot run, or why its latest reload was not taken.")


class ManagedModels(BaseModel):
    """Versions, by name and version."""

    versions: list[ManagedVersion]


@router.get("", summary="What is in the folder, and what runs?", responses=problem_responses(422, 503))
async def index(services: ServicesOf) -> ManagedModels:
    """Every version, those that are not loaded too."""
    return await _states(services, None)


@router.post("/{name}/load", summary="Load a version", responses=problem_responses(*_STATUSES))
async def load(services: ServicesOf, name: Name, version: Version = None) -> ManagedModels:
    """Loads what is in the folder and does not run yet. What runs is left alone."""
    await asyncio.to_thread(services.changes.load, name, version)
    return await _states(services, name)


@router.post("/{name}/reload", summary="Load a version again", responses=problem_responses(*_STATUSES))
async def reload(services: ServicesOf, name: Name, version: Version = None) -> ManagedModels:
    """Loads what is in the folder beside what runs, and then takes its place: no request is dropped."""
    await asyncio.to_thread(services.changes.reload, name, version)
    return await _states(services, name)


@router.post("/{name}/unload", summary="Take a version out of service", responses=problem_responses(*_STATUSES))
async def unload(
    services: ServicesOf,
    name: Name,
    version: Version = None,
    force: Annotated[bool, Query(description="Even if the default changes or nothing is left.")] = False,
) -> ManagedModels:
    """What it still runs is finished, and then its memory is freed."""
    await asyncio.to_thread(lambda: services.changes.unload(name, version, force=force))
    return await _states(services, None if force else name)


@router.put(
    "/{name}/labels/{label}", summary="Let a label stand for a version", responses=problem_responses(*_STATUSES)
)
async def set_label(
    services: ServicesOf,
    name: Name,
    label: Label,
    version: Annotated[str, Query(description="A version that runs.", max_length=64)],
) -> ManagedModels:
    """The next request that asks for `NAME@LABEL` gets this version. Lasts until the service ends."""
    await asyncio.to_thread(services.changes.set_label, name, label, version)
    return await _states(services, name)


@router.delete("/{name}/labels/{label}", summary="Take a label away", responses=problem_responses(*_STATUSES))
async def remove_label(services: ServicesOf, name: Name, label: Label) -> ManagedModels:
    """Requests that name it are refused from now on."""
    await asyncio.to_thread(services.changes.remove_label, name, label)
    return await _states(services, name)


async def _states(services: Services, name: str | None) -> ManagedModels:
    found = await asyncio.to_thread(services.changes.states, name)
    return ManagedModels(versions=[managed(state) for state in found])


def managed(state: VersionState) -> ManagedVersion:
    """A version's state, on the wire."""
    return ManagedVersion(
        name=state.name, version=state.version, state=state.state, labels=list(state.labels), reason=state.reason
    )
