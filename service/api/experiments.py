"""`/experiments`: what is compared and what was found; `/admin/experiments`: changing it without a restart."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.api.auth import RequireAdmin
from service.api.findings import refuse_doubled_members, refuse_unknown
from service.api.openapi import problem_responses
from service.api.services import Services, ServicesOf
from service.api.wire import json_response
from service.card import TaskName, VariantName
from service.errors import InvalidExperimentError
from service.experiments.declaration import Change, Declaration, Mode, State, no_effect
from service.experiments.results import Results
from service.experiments.verdict import Verdict

router = APIRouter(tags=["experiments"])

Name = Annotated[str, Path(description="Name of the experiment.", max_length=200)]


class ArmInfo(BaseModel):
    """One arm as it is declared, and what runs it now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: str = Field(description="`baseline` or `candidate`.")
    model: str | None = Field(description="The model that runs it; null where it cannot run.")
    version: str | None
    variant: VariantName
    weight: float = Field(description="Share of the images that it answers (`split`), or that it runs.")


class ExperimentInfo(BaseModel):
    """An experiment: what it compares, what it found, and what that means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    task: TaskName
    mode: Mode
    state: State
    description: str
    margin: float = Field(description="Accepted loss of accuracy, a fraction.")
    arms: list[ArmInfo] = Field(description="Baseline, then candidate.")
    problem: str | None = Field(description="Why it cannot run; null where it can.")
    results: Results | None
    verdict: Verdict | None


class ExperimentList(BaseModel):
    """Every experiment, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiments: list[ExperimentInfo]
    stored: bool = Field(description="Whether feedback and observations outlive the process.")


@router.get(
    "/experiments",
    summary="What is being compared on live traffic, and what was found",
    response_model=ExperimentList,
    responses=problem_responses(503),
)
async def experiments(services: ServicesOf) -> Response:
    """Lists every experiment with its results and a verdict in plain words; they are a second old at the most."""
    laboratory = services.laboratory
    found = await asyncio.to_thread(lambda: [_info(services, each) for each in laboratory.catalogue.all()])
    return json_response(ExperimentList(experiments=found, stored=laboratory.store.path is not None))


@router.get(
    "/experiments/{name}",
    summary="One experiment",
    response_model=ExperimentInfo,
    responses=problem_responses(404, 422, 503),
)
async def experiment(services: ServicesOf, name: Name) -> Response:
    """Tells what one experiment compares, what it found and what that means."""
    declaration = services.laboratory.catalogue.get(name)
    return json_response(await asyncio.to_thread(_info, services, declaration))


_CHANGES = problem_responses(400, 401, 403, 404, 408, 413, 415, 422, 500, 503)


@router.put(
    "/admin/experiments/{name}",
    summary="Create or replace an experiment",
    response_model=ExperimentInfo,
    responses=_CHANGES,
    dependencies=[RequireAdmin, Depends(refuse_unknown), Depends(refuse_doubled_members)],
)
async def put(services: ServicesOf, name: Name, declaration: Declaration) -> Response:
    """Takes effect at once here, and within seconds at every replica that shares the store."""
    if declaration.name != name:
        raise InvalidExperimentError(
            f"The declaration is of {declaration.name!r} and the path names {name[:70]!r}.",
            remedy="Give both the same name.",
        )
    if (member := declaration.without_effect) is not None:
        raise InvalidExperimentError(
            f"{no_effect(member, declaration)}; nothing was changed.", remedy=f"Leave `{member}` out."
        )
    changed = await asyncio.to_thread(services.laboratory.catalogue.put, declaration)
    return json_response(await asyncio.to_thread(_info, services, changed))


@router.patch(
    "/admin/experiments/{name}",
    summary="Pause, resume, or change the weights of an experiment",
    response_model=ExperimentInfo,
    responses=_CHANGES,
    dependencies=[RequireAdmin, Depends(refuse_unknown), Depends(refuse_doubled_members)],
)
async def patch(services: ServicesOf, name: Name, change: Change) -> Response:
    """Changes what the body names and leaves the rest; the data so far stay with the experiment."""
    changed = await asyncio.to_thread(services.laboratory.catalogue.change, name, change)
    return json_response(await asyncio.to_thread(_info, services, changed))


@router.delete(
    "/admin/experiments/{name}",
    summary="End an experiment",
    status_code=204,
    responses=_CHANGES,
    dependencies=[RequireAdmin, Depends(refuse_unknown)],
)
async def delete(services: ServicesOf, name: Name) -> Response:
    """Ends it; what was kept of it is forgotten in its time."""
    await asyncio.to_thread(services.laboratory.catalogue.remove, name)
    return Response(status_code=204)


def _info(services: Services, declaration: Declaration) -> ExperimentInfo:
    report, weights = services.laboratory.report(declaration), declaration.weights()
    networks = report.networks or ((None, None), (None, None))
    return ExperimentInfo(
        name=declaration.name,
        task=declaration.task,
        mode=declaration.mode,
        state=declaration.state,
        description=declaration.description,
        margin=declaration.margin,
        arms=[
            ArmInfo(
                name=arm.label,
                role=role,
                model=model,
                version=version,
                variant=arm.variant,
                weight=weights[arm.label],
            )
            for role, arm, (model, version) in zip(("baseline", "candidate"), declaration.arms, networks, strict=True)
        ],
        problem=report.problem,
        results=report.results,
        verdict=report.verdict,
    )
