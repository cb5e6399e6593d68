"""Endpoints for operators and their tools: liveness, readiness, metrics, models."""

from fastapi import APIRouter, HTTPException, Request
from prometheus_client import exposition
from starlette.responses import Response

from service.api.openapi import problem_responses
from service.api.problems import problem_kinds
from service.api.services import Services, ServicesOf
from service.card import VariantName
from service.registry import Entry, Registry
from service.schemas import BrokenModel, Health, ModelInfo, ModelList, Problem, ProblemKind, Readiness, VariantStatus

router = APIRouter(tags=["operations"])

METRICS_MEDIA_TYPES = ("text/plain", "application/openmetrics-text")


@router.get("/healthz", summary="Is the process alive?")
async def healthz(services: ServicesOf) -> Health:
    """Answers as long as the event loop runs, whatever the state of the models. For liveness probes."""
    return Health(version=services.version, revision=services.revision)


@router.get(
    "/readyz",
    summary="Is the service ready for requests?",
    responses={503: {"model": Readiness, "description": "Starting, draining, or failed; `reasons` says why."}},
)
async def readyz(services: ServicesOf, response: Response) -> Readiness:
    """Returns 200 once all required models are loaded and warmed up; 503 before that, and after the first SIGTERM."""
    found = readiness(services)
    if not found.ready:
        response.status_code = 503
        response.headers["retry-after"] = "2"
    return found


@router.get("/models", summary="All models, with their cards and states")
async def models(services: ServicesOf) -> ModelList:
    """Lists every model with its variants, weights, arithmetic, training and measured accuracy, and broken models."""
    return model_list(services.registry)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {kind: {"schema": {"type": "string"}} for kind in METRICS_MEDIA_TYPES}}},
)
async def metrics(request: Request, services: ServicesOf) -> Response:
    """Returns the metrics in the Prometheus text format, or as OpenMetrics if the client accepts that.

    An `Accept` header that cannot be understood counts as none: a scrape must not fail because of it.
    """
    try:
        encode, content_type = exposition.choose_encoder(", ".join(request.headers.getlist("accept")))
    except (TypeError, ValueError):  # the client compares a version that is not a number, such as `version=abc`
        encode, content_type = exposition.choose_encoder("")
    return Response(encode(services.metrics.registry), headers={"content-type": content_type})


@router.get(
    "/problems/{code}",
    summary="The meaning of a problem's `type`",
    responses=problem_responses(404),
)
async def problem_kind(code: str) -> ProblemKind:
    """Resolves the `type` of a problem document."""
    kind = problem_kinds().get(code)
    if kind is None:
        raise HTTPException(404)
    return kind


def readiness(services: Services) -> Readiness:
    """Whether the service is ready to answer requests, and if not, why."""
    found = services.registry.readiness()
    if services.lifecycle.draining:
        return Readiness(ready=False, state="draining", reasons=["The service is stopping."], models=found.models)
    return Readiness(ready=found.state == "ready", state=found.state, reasons=list(found.reasons), models=found.models)


def model_list(registry: Registry) -> ModelList:
    """Every model of a registry, with its card and the state of its variants, and the broken models."""
    return ModelList(
        models=[_model(registry, entry) for entry in registry.entries()],
        broken=[
            BrokenModel(name=name, problem=Problem.model_validate(error.problem()))
            for name, error in sorted(registry.broken().items())
        ],
    )


def _model(registry: Registry, entry: Entry) -> ModelInfo:
    card = entry.card
    variants = [_variant(entry, variant) for variant in card.variants]
    return ModelInfo(
        name=card.name,
        version=card.version,
        task=card.task,
        precision=card.precision,
        default=registry.is_default(entry),
        labels=registry.catalog.labels_of(card),
        full=card.full,
        variants=variants,
        network=card.network,
        input=card.input.model_dump(),
        classes=len(card.classes) or None,
        weights=card.weights,
        work=card.work,
        stem_precision=card.stem_precision,
        pointwise_precision=card.pointwise_precision,
        metrics=list(card.metrics),
        training=card.training.model_dump(),
        limits=list(card.limits),
        license=card.license,
    )


def _variant(entry: Entry, variant: VariantName) -> VariantStatus:
    loaded = entry.variants.get(variant)
    if loaded is None or loaded.handle is None:
        reason = "It is still loading." if loaded is None or loaded.error is None else str(loaded.error)
        return VariantStatus(variant=variant, ready=False, reason=reason)
    described = loaded.handle.model.describe()
    return VariantStatus(
        variant=variant,
        ready=True,
        kernel=loaded.handle.kernel,
        memory_bytes={"binary": described["binary_weight_bytes"], "real": described["real_weight_bytes"]},
        session_bytes=described["session_bytes"],
    )
