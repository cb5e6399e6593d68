"""Administration of the served models: load, unload, reload, labels. Requires an admin key."""

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
Name = Annotated[str, Path(description="Name of the model, which is the name of its folder.", max_length=64)]
Label = Annotated[
    str, Path(description="A label such as `stable` or `canary`; the name alone stands for the label `default`.")
]
Version = Annotated[str | None, Query(description="One version; if omitted, all versions.", max_length=64)]


class ManagedVersion(BaseModel):
    """One version of one model, loaded or only in the folder."""

    name: str
    version: str
    state: str = Field(description="`ready`, `failed` or `unloaded`.")
    labels: list[str]
    reason: str | None = Field(description="Why it cannot run, or why its latest reload failed.")


class ManagedModels(BaseModel):
    """Versions, sorted by name and version."""

    versions: list[ManagedVersion]


@router.get("", summary="All versions and their states", responses=problem_responses(422, 503))
async def models(services: ServicesOf) -> ManagedModels:
    """Lists every version in the folder or in memory, including those that are not loaded."""
    return await _states(services, None)


@router.post("/{name}/load", summary="Load a version", responses=problem_responses(*_STATUSES))
async def load(services: ServicesOf, name: Name, version: Version = None) -> ManagedModels:
    """Loads what is in the folder and not yet loaded. Loaded versions are not touched."""
    await services.changes.apart(services.changes.load, name, version)
    return await _states(services, name)


@router.post("/{name}/reload", summary="Load a version again", responses=problem_responses(*_STATUSES))
async def reload(services: ServicesOf, name: Name, version: Version = None) -> ManagedModels:
    """Loads the version from the folder again, then replaces the loaded one with it. No request is dropped."""
    await services.changes.apart(services.changes.reload, name, version)
    return await _states(services, name)


@router.post("/{name}/unload", summary="Take a version out of service", responses=problem_responses(*_STATUSES))
async def unload(
    services: ServicesOf,
    name: Name,
    version: Version = None,
    force: Annotated[bool, Query(description="Unload even if the default changes or no version remains.")] = False,
) -> ManagedModels:
    """Finishes the version's pending requests, then frees its memory."""
    await services.changes.apart(services.changes.unload, name, version, force=force)
    states = await _states(services, None, must_read=False)
    # Nothing may be left of the model, in memory or in the folder: an empty list, and no error after a success.
    return states if force else ManagedModels(versions=[each for each in states.versions if each.name == name])


@router.put("/{name}/labels/{label}", summary="Assign a label to a version", responses=problem_responses(*_STATUSES))
async def set_label(
    services: ServicesOf,
    name: Name,
    label: Label,
    version: Annotated[str, Query(description="A loaded version.", max_length=64)],
) -> ManagedModels:
    """From the next request on, `NAME@LABEL` means this version. Lasts until the service stops."""
    await services.changes.apart(services.changes.set_label, name, label, version)
    return await _states(services, name, must_read=False)


@router.delete("/{name}/labels/{label}", summary="Remove a label", responses=problem_responses(*_STATUSES))
async def remove_label(services: ServicesOf, name: Name, label: Label) -> ManagedModels:
    """Requests that use the label are refused from now on."""
    await services.changes.apart(services.changes.remove_label, name, label)
    return await _states(services, name, must_read=False)


async def _states(services: Services, name: str | None, *, must_read: bool = True) -> ManagedModels:
    """The versions; without `must_read` after a change that needs no folder: what is done must not end in an error."""
    found = await asyncio.to_thread(services.changes.states, name, must_read=must_read)
    return ManagedModels(versions=[managed(state) for state in found])


def managed(state: VersionState) -> ManagedVersion:
    """Converts a version's state to its wire type."""
    return ManagedVersion(
        name=state.name, version=state.version, state=state.state, labels=list(state.labels), reason=state.reason
    )
