"""`/experiments`: the experiments and their results. `/admin/experiments`: changes without a restart."""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from service.api.auth import RequireAdmin
from service.api.findings import refuse_unknown
from service.api.json_body import json_request, read_document
from service.api.openapi import problem_responses
from service.api.services import DeadlineOf, Services, ServicesOf
from service.api.wire import json_response
from service.errors import InvalidExperimentError
from service.experiments.declaration import Change, Declaration, no_effect
from service.experiments.experiments import Experiments
from service.experiments.wire import ArmInfo, ExperimentChanged, ExperimentInfo, ExperimentList

router = APIRouter(tags=["experiments"])

Name = Annotated[str, Path(description="Name of the experiment.", max_length=200)]


@router.get(
    "/experiments",
    summary="All experiments on live traffic, with their results",
    response_model=ExperimentList,
    responses=problem_responses(503),
)
async def experiments(services: ServicesOf) -> Response:
    """Lists every experiment with its results and a verdict in plain words.

    Results are used again for one second. With very much feedback, computing them takes longer than that; requests that
    come meanwhile get the same results.
    """
    experimentation = services.experimentation
    found = await asyncio.gather(*(_info(services, each) for each in experimentation.experiments.all()))
    return json_response(ExperimentList(experiments=found, stored=experimentation.store.path is not None))


@router.get(
    "/experiments/{name}",
    summary="One experiment",
    response_model=ExperimentInfo,
    responses=problem_responses(404, 422, 503),
)
async def experiment(services: ServicesOf, name: Name) -> Response:
    """Returns the declaration, the results and the verdict of one experiment."""
    declaration = services.experimentation.experiments.get(name)
    return json_response(await _info(services, declaration))


_CHANGES = problem_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)


@router.put(
    "/admin/experiments/{name}",
    summary="Create or replace an experiment",
    response_model=ExperimentChanged,
    responses=_CHANGES,
    dependencies=[RequireAdmin, Depends(refuse_unknown)],
    openapi_extra=json_request(Declaration),
)
async def put_experiment(request: Request, services: ServicesOf, deadline: DeadlineOf, name: Name) -> Response:
    """Takes effect on this replica at once, and within seconds on every replica that shares the store."""
    declaration = await read_document(request, services, deadline, Declaration)
    if declaration.name != name:
        raise InvalidExperimentError(
            f"The declaration names {declaration.name!r}, but the path names {name[:70]!r}.",
            remedy="Use the same name in both.",
        )
    if (member := declaration.without_effect) is not None:
        raise InvalidExperimentError(
            f"{no_effect(member, declaration)}; nothing was changed.", remedy=f"Leave out `{member}`."
        )
    return json_response(await _changed(services, name, lambda experiments: experiments.put(declaration)))


@router.patch(
    "/admin/experiments/{name}",
    summary="Pause, resume, or change the weights of an experiment",
    response_model=ExperimentChanged,
    responses=_CHANGES,
    dependencies=[RequireAdmin, Depends(refuse_unknown)],
    openapi_extra=json_request(Change),
)
async def patch_experiment(request: Request, services: ServicesOf, deadline: DeadlineOf, name: Name) -> Response:
    """Changes the members that the body names, and keeps the others.

    The experiment keeps its data, except if the `weight` of a `split` changes. Then the comparison starts over, because
    periods with different weights cannot be combined.
    """
    change = await read_document(request, services, deadline, Change)
    return json_response(await _changed(services, name, lambda experiments: experiments.change(name, change)))


@router.delete(
    "/admin/experiments/{name}",
    summary="End an experiment",
    status_code=204,
    responses=_CHANGES,
    dependencies=[RequireAdmin, Depends(refuse_unknown)],
)
async def delete_experiment(services: ServicesOf, name: Name) -> Response:
    """Ends the experiment. Its stored data are removed when their retention time ends."""
    await services.experimentation.write(services.experimentation.experiments.remove, name)
    return Response(status_code=204)


async def _changed(services: Services, name: str, change: Callable[[Experiments], Declaration]) -> ExperimentChanged:
    """Makes a change, and adds a notice if a new revision of the experiment begins."""
    experiments = services.experimentation.experiments
    before = next((each for each in experiments.all() if each.name == name), None)
    after = await services.experimentation.write(change, experiments)
    notice = None
    if before is not None and before.identity() != after.identity():
        reason = "the declaration compares something else"
        if before.model_copy(update={"weight": after.weight}).identity() == after.identity():
            reason = "periods of a `split` with different weights cannot be combined"
        notice = (
            f"The comparison starts over: {reason}. To get the earlier data back, declare the experiment as before."
        )
    return ExperimentChanged(**dict(await _info(services, after)), notice=notice)


async def _info(services: Services, declaration: Declaration) -> ExperimentInfo:
    report, weights = await services.experimentation.reports.get(declaration), declaration.weights()
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
