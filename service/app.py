"""The composition root: `create_app` is the only place that wires the parts of the service together."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import metadata
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from service.api import (
    compare,
    experiments,
    feedback,
    models_admin,
    oip,
    oip_repository,
    ops,
    pages,
    predict,
    triton_extensions,
)
from service.api.assignment import SUBJECT_HEADER
from service.api.auth import KEY_HEADER, Auth, KeyGuard
from service.api.direct import Shortcut
from service.api.middleware import AccessMiddleware, BodyLimit, ErrorBoundary, HeadAsGet
from service.api.oip_request import HEADER_LENGTH, InferRequest
from service.api.openapi import describe, operation_id
from service.api.problems import install_handlers
from service.api.services import TIMEOUT_HEADER, Services
from service.background import Background
from service.build import revision
from service.errors import SettingsError
from service.experiments.declaration import Change, Declaration, read_declarations
from service.experiments.experimentation import Experimentation
from service.experiments.recorder import Retention
from service.experiments.store import Store
from service.imaging import ImageLimits
from service.keys import keys_of
from service.metrics import Metrics
from service.parity.monitor import ParityMonitor, ParitySettings
from service.pipeline import Pipeline, Telemetry, ThreadPool
from service.registry import Changes, Entry, Handle, Registry
from service.request_id import REQUEST_ID_HEADER
from service.scheduler import Image, Outcome, Scheduler
from service.server.linger import LINGER_BYTES, LINGER_S, SMALL_BYTES, LingeringClose
from service.settings import Settings, export_kernel

if TYPE_CHECKING:
    from service.tracing import Tracing

log = logging.getLogger(__name__)

DESCRIPTION = """
Bi-Real Net, a 1-bit convolutional network, served alongside its float `reference` and its `full`-precision twin.

Images are decoded in memory; they are **never stored and never logged**. Every error is `application/problem+json`
(RFC 9457) with a stable `code`, and with `help` on what to do. Every response carries `x-request-id`, and answers
carry `Server-Timing`.
"""

_REQUEST_HEADERS = (
    KEY_HEADER,
    REQUEST_ID_HEADER,
    TIMEOUT_HEADER,
    SUBJECT_HEADER,
    HEADER_LENGTH,
    "content-encoding",
    "traceparent",
    "tracestate",
)

_EXPOSED_HEADERS = (
    REQUEST_ID_HEADER,
    HEADER_LENGTH,
    "server-timing",
    "retry-after",
    "x-bireal-model",
    "x-bireal-version",
    "x-bireal-variant",
    "x-bireal-kernel",
    "x-bireal-fallback",
    "x-bireal-compared",
    "x-bireal-agreement",
    "x-bireal-experiment",
    "x-bireal-arm",
    "x-bireal-feedback-token",
    "x-bireal-depth-m",
    "x-bireal-picture",
    "x-bireal-region",
    "x-bireal-map",
    "x-bireal-valid",
    "x-bireal-focal",
    "x-bireal-color-range-m",
)


def service_version() -> str:
    """Version of the installed distribution; `0+unknown` if the source tree runs without being installed."""
    try:
        return metadata.version("bireal-serve")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def create_app(settings: Settings, registry: Registry | None = None) -> FastAPI:
    """Builds the application.

    The application's lifespan loads the models in a thread. The process answers `/healthz` and `/readyz` immediately,
    and inference requests once `/readyz` reports that it is ready.

    Args:
        settings: The service's settings.
        registry: A registry with loaded models or with other backends; by default one made from the settings.

    Returns:
        An ASGI application; `app.state.services` holds its parts.

    Raises:
        SettingsError: Tracing is enabled, but OpenTelemetry is not installed.
    """
    export_kernel(settings)
    version = service_version()
    tracing = _tracing(settings, version)
    metrics = Metrics(CollectorRegistry())
    telemetry = Telemetry(metrics)
    registry = registry or Registry(settings)
    scheduler = Scheduler(
        workers=settings.workers,
        queue_size=settings.queue_size,
        max_batch=settings.max_batch,
        on_run=telemetry.batch_run,
    )
    registry.observe(telemetry.variant_loaded, _retirement(telemetry, scheduler))
    pool = ThreadPool(threads=settings.decode_threads, queue_size=settings.queue_size)
    metrics.requests.queue_depth.set_function(scheduler.waiting)
    metrics.requests.decode_queue_depth.set_function(pool.waiting)
    metrics.requests.set_capacity(queue_limit=settings.queue_size, workers=settings.workers)
    background = Background(scheduler, pool, capacity=settings.background_queue)
    parity = ParityMonitor(
        ParitySettings(
            sample=settings.parity_sample,
            layer_sample=settings.parity_layer_sample,
            probe_s=settings.parity_probe_s,
            intra_op_threads=settings.intra_op_threads,
        ),
        registry=registry,
        scheduler=scheduler,
        background=background,
        metrics=metrics.parity,
    )
    watch = parity if settings.parity_sample else None
    pipeline = Pipeline(
        scheduler,
        pool,
        ImageLimits(max_pixels=settings.max_pixels),
        telemetry,
        watch=watch,
    )
    experimentation = _experimentation(settings, registry, scheduler, background, metrics, watch)
    services = Services(
        settings,
        registry,
        pipeline,
        metrics,
        version,
        Auth.of(settings),
        experimentation,
        Changes(registry),
        revision=revision(),
    )
    metrics.models.ready.set_function(lambda: ops.readiness(services).ready)

    app = FastAPI(
        title="bireal-serve",
        version=version,
        description=DESCRIPTION,
        lifespan=lambda _: _running(services, telemetry, scheduler, background, pool, tracing),
        openapi_url=None,  # service.api.pages has the document, on a route that metrics and log can name
        docs_url=None,  # FastAPI's pages load scripts from another host; service.api.pages has local ones
        redoc_url=None,
        generate_unique_id_function=operation_id,
        redirect_slashes=False,  # a client that follows the redirect would send its image twice
        middleware=_middleware(services, tracing),
        telemetry=tracing.telemetry if tracing is not None else {"tracing": False, "metrics": False, "logs": False},
    )
    app.state.services = services
    install_handlers(app)
    # In this order, because `/v2/models/{model}` would match `/v2/models/stats`.
    protocol = (triton_extensions, oip, oip_repository)
    for surface in (predict, compare, experiments, feedback, *protocol, models_admin, ops, pages):
        app.include_router(surface.router)
    metrics.requests.begin_routes(_answering(predict.router, compare.router, oip.router))
    describe(
        app,
        services.auth,
        bodies=(InferRequest, feedback.Feedback, Declaration, Change),
        defaults={"top_k": settings.top_k, "min_probability": settings.min_probability},
    )
    return app


@asynccontextmanager
async def _running(
    services: Services,
    telemetry: Telemetry,
    scheduler: Scheduler,
    background: Background,
    pool: ThreadPool,
    tracing: "Tracing | None",
) -> AsyncIterator[None]:
    """Starts the background activities, and at the end closes everything in order of dependence."""
    loading = asyncio.create_task(_load(services, telemetry))
    watching = asyncio.create_task(_watch(services))
    background.start()
    services.experimentation.start()
    if tracing is not None:
        tracing.start()
    try:
        yield
    finally:
        give_up = time.monotonic() + services.settings.default_timeout_s
        services.registry.stop_loading()
        loading.cancel()
        watching.cancel()
        await asyncio.gather(loading, watching, return_exceptions=True)
        await background.close()
        await asyncio.to_thread(scheduler.close, services.settings.default_timeout_s)
        # Its threads may be inside a library. One that returns from it during the interpreter's shutdown would abort
        # the process.
        await asyncio.to_thread(pool.close, max(0.0, give_up - time.monotonic()))
        await asyncio.to_thread(services.changes.close)
        await asyncio.to_thread(services.experimentation.close)
        services.registry.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def _experimentation(
    settings: Settings,
    registry: Registry,
    scheduler: Scheduler,
    background: Background,
    metrics: Metrics,
    watch: Callable[[Handle, Image, Outcome], None] | None,
) -> Experimentation:
    """Experiments and feedback, as configured by the settings."""
    return Experimentation(
        read_declarations(settings.experiments_file) if settings.experiments_file is not None else (),
        Store(settings.feedback_store),
        keys_of(settings.feedback_secrets, settings.feedback_secrets_file, "BIREAL_FEEDBACK_SECRETS_FILE"),
        Retention(settings.feedback_days * 86400, settings.feedback_rows),
        registry=registry,
        scheduler=scheduler,
        background=background,
        metrics=metrics,
        watch=watch,
    )


def _answering(*routers: APIRouter) -> list[str]:
    """Path templates of the routes that run a network."""
    routes = (route for router in routers for route in router.routes)
    return [route.path for route in routes if isinstance(route, APIRoute) and "POST" in (route.methods or ())]


def _middleware(services: Services, tracing: "Tracing | None") -> list[Middleware]:
    """The middleware, from the outside in."""
    settings, metrics, lifecycle = services.settings, services.metrics, services.lifecycle
    layers = [
        Middleware(
            LingeringClose,
            max_bytes=max(LINGER_BYTES, settings.max_body_bytes),
            max_s=LINGER_S,
            small_bytes=min(SMALL_BYTES, settings.max_body_bytes),
        ),
        Middleware(AccessMiddleware, metrics=metrics.requests, draining=lambda: lifecycle.draining),
    ]
    if tracing is not None:
        from service.tracing import StageSpans  # loads the SDK, so only if tracing is enabled

        layers.append(Middleware(StageSpans, tracer=tracing.tracer))
    if settings.cors_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["content-type", "authorization", *_REQUEST_HEADERS],
                expose_headers=list(_EXPOSED_HEADERS),
            )
        )
    layers.append(Middleware(ErrorBoundary))
    layers.append(Middleware(KeyGuard, auth=services.auth))
    layers.append(Middleware(BodyLimit, max_bytes=settings.max_body_bytes))
    layers.append(Middleware(HeadAsGet))
    layers.append(Middleware(Shortcut, services=services, routes=predict.router.routes))
    return layers


def _tracing(settings: Settings, version: str) -> "Tracing | None":
    """The tracing of the application, if a collector is configured."""
    if settings.otlp_endpoint is None:
        return None
    try:
        from service.tracing import Tracing  # loads the SDK, so only if tracing is enabled
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"BIREAL_OTLP_ENDPOINT is set, but OpenTelemetry is not installed ({error.name} is missing).",
            remedy="Install the extra `otel` (pip install --require-hashes -r requirements/otel.lock, or "
            "pip install 'bireal-serve[otel]'), or remove the setting.",
        ) from error
    return Tracing(settings.otlp_endpoint, sample=settings.trace_sample, version=version)


async def _load(services: Services, telemetry: Telemetry) -> None:
    """Loads and warms up the models off the event loop, and logs the result.

    An exception of any type ends in a state that `/readyz` reports: nobody waits for this task, so that the process
    would be `starting` for ever and would not say why.
    """
    try:
        await asyncio.to_thread(services.registry.load)
        await asyncio.to_thread(telemetry.show_build, services.version, services.revision)
    except Exception as error:
        log.exception("the models could not be loaded")
        services.registry.give_up(
            f"The models could not be loaded: {type(error).__name__}; see the service's log, and restart the service."
        )
    found = ops.readiness(services)
    for reason in found.reasons:
        log.error("not ready: %s", reason)
    if found.ready:
        log.info("ready: %d model variants", sum(found.models.values()))


async def _watch(services: Services) -> None:
    """Periodically checks the model folder for changes."""
    period_s = services.settings.model_poll_s
    while period_s > 0:
        await asyncio.sleep(period_s)
        try:
            if services.registry.readiness().state != "starting":
                await services.changes.apart(services.changes.refresh)
        except Exception:  # whatever fails, the next check must still run
            log.exception("the model folder could not be checked; trying again in %g s", period_s)


def _retirement(telemetry: Telemetry, scheduler: Scheduler) -> Callable[[Entry], None]:
    """What to do when a version is no longer served."""

    def retired(entry: Entry) -> None:
        telemetry.version_retired(entry)
        for loaded in entry.variants.values():
            if loaded.handle is not None:
                scheduler.forget(loaded.handle.model)

    return retired
