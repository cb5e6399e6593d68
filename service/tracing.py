"""OpenTelemetry tracing. The only module that imports the SDK; it is imported only if tracing is enabled.

FastAPI makes the server span of each request by the semantic conventions for HTTP, and honours the caller's
`traceparent`. This module adds the export and sampling of spans, attributes of the server span that say what ran, a
child span for each stage of each image, and the trace id in the log. The SDK's own variables
(`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_*`, ...) have their usual meaning. See
docs/adr/0033 for the reasons.
"""

import logging
import threading
import time
from collections.abc import Iterable, MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.context import PROBES, context_of
from service.api.direct import DirectRoute
from service.pipeline import ImageTimes, RequestContext

log = logging.getLogger(__name__)

_SIGNAL_PATH = "/v1/traces"
# Longest wait for the collector at shutdown, seconds; a working one takes milliseconds.
_FLUSH_S = 3.0


class Tracing:
    """Samples and exports the spans of one application.

    A separate thread sends the spans in batches from a bounded queue. If the collector is slow or unreachable, the
    oldest spans are dropped, and no request waits.

    Args:
        endpoint: The collector's address, as `http://host:4318`; the path `/v1/traces` is appended if missing.
        sample: Share of requests without a `traceparent` that are traced; for the others, its flag decides.
        version: The service's version.
    """

    def __init__(self, endpoint: str, *, sample: float, version: str) -> None:
        ours = Resource({"service.name": "bireal-serve", "service.version": version})
        url = endpoint.rstrip("/")
        self._exporter = OTLPSpanExporter(url if url.endswith(_SIGNAL_PATH) else url + _SIGNAL_PATH)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample)),
            resource=Resource.create().merge(ours).merge(OTELResourceDetector().detect()),  # the operator's values win
            shutdown_on_exit=False,  # `close` does it, with a time limit
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._filter = _TraceIds()
        self._handlers: list[logging.Handler] = []
        self.tracer = self._provider.get_tracer("bireal-serve", version)
        #: Configuration for FastAPI, which makes the server spans.
        self.telemetry: TelemetryConfig = {
            "tracer_provider": self._provider,
            "tracing": True,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": _is_probe,
        }

    def start(self) -> None:
        """Adds trace ids to log records."""
        self._handlers = list(logging.getLogger().handlers)
        for handler in self._handlers:
            handler.addFilter(self._filter)

    def close(self) -> None:
        """Sends the remaining spans, or gives up after three seconds. Blocks: call it in a thread."""
        for handler in self._handlers:
            handler.removeFilter(self._filter)
        # The SDK would wait while its exporter retries, up to 30 s: too long for a process that must stop.
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_FLUSH_S)
        if last.is_alive():
            log.warning("the trace collector did not answer within %g s: the last spans are lost", _FLUSH_S)
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


class StageSpans:
    """Adds to the request's span what ran, and a child span for each stage of each image.

    Must be inside `AccessMiddleware`, which creates the request's context.

    Args:
        app: The inner application.
        tracer: Creates the child spans.
    """

    def __init__(self, app: ASGIApp, *, tracer: trace.Tracer) -> None:
        self._app, self._tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        span = trace.get_current_span()
        if scope["type"] != "http" or not span.is_recording():
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        context.images = []

        async def send_with_attributes(message: Message) -> None:
            if message["type"] == "http.response.start":  # FastAPI ends the span with the last byte of the body
                _name_direct_route(span, scope)
                span.set_attributes(_attributes(context))
            await send(message)

        try:
            await self._app(scope, receive, send_with_attributes)
        finally:
            if span.is_recording():  # no response was sent, because the client disconnected
                _name_direct_route(span, scope)
                span.set_attributes(_attributes(context))
            self._add_stages(span, context.images)

    def _add_stages(self, parent: trace.Span, images: Iterable[ImageTimes]) -> None:
        """Adds the stage spans. Called after the response is sent, so that no client waits for it."""
        surrounding = trace.set_span_in_context(parent)
        clock_ns = time.time_ns() - time.perf_counter_ns()
        recorded = set()
        for number, image in enumerate(images):
            attributes = {**_run_attributes([image]), "bireal.image": number}
            for times in image.stages:
                if times in recorded:  # a comparison decodes its image once for both networks
                    continue
                recorded.add(times)
                name, begun, seconds = times
                begun_ns = clock_ns + round(begun * 1e9)
                stage = self._tracer.start_span(name, surrounding, attributes=attributes, start_time=begun_ns)
                stage.end(begun_ns + round(seconds * 1e9))


class _TraceIds(logging.Filter):
    """Adds the ids of the current trace and span to a record's fields."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keeps every record."""
        current = trace.get_current_span().get_span_context()
        if current.is_valid:
            ids = {
                "trace_id": trace.format_trace_id(current.trace_id),
                "span_id": trace.format_span_id(current.span_id),
            }
            record.fields = {**getattr(record, "fields", {}), **ids}
        return True


def _is_probe(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path") in PROBES


def _name_direct_route(span: trace.Span, scope: Scope) -> None:
    """Names the span of a `DirectRoute`, which FastAPI never sees, as FastAPI does for its own routes."""
    route = scope.get("route")
    if isinstance(route, DirectRoute):
        span.set_attribute("http.route", route.path)
        span.update_name(f"{scope['method']} {route.path}")


def _attributes(context: RequestContext) -> dict[str, str | int]:
    """Attributes of the server span besides those of HTTP."""
    attributes: dict[str, str | int] = {"bireal.request_id": context.request_id}
    if context.problem is not None:
        attributes["bireal.problem"] = context.problem
    if context.images:
        attributes |= {**_run_attributes(context.images), "bireal.images": len(context.images)}
    return attributes


def _run_attributes(images: list[ImageTimes]) -> dict[str, str | int]:
    """What ran; for a comparison, the values of both sides, separated by a comma."""
    attributes: dict[str, str | int] = {
        f"bireal.{name}": ",".join(dict.fromkeys(str(image.labels[name]) for image in images))
        for name in images[0].labels
    }
    attributes["bireal.batch_size"] = max(image.batch_size for image in images)
    return attributes
