"""What belongs to one request: its id, its clock, the time spent in each stage, and what answered it."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection
from starlette.types import Scope

from service.randomness import random_bytes

SCOPE_KEY = "bireal.context"
REQUEST_ID_HEADER = "x-request-id"
#: Asked every few seconds by machines: logged only when debugging, and never traced.
PROBES = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_HEADERS = "bireal.headers"

# Ids go into log lines and headers of other systems: a short alphabet without separators, quotes or control characters.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


@dataclass(frozen=True, slots=True)
class ImageTimes:
    """One image's way through one network, for a trace.

    Attributes:
        labels: What ran: task, model, version, variant, kernel.
        batch_size: Images that shared the run.
        stages: Each stage's name, its begin by `time.perf_counter()`, and its seconds.
    """

    labels: Mapping[str, object]
    batch_size: int
    stages: tuple[tuple[str, float, float], ...]


@dataclass(slots=True)
class RequestContext:
    """One request.

    Attributes:
        request_id: The client's `x-request-id` where that is well-formed, else a new one.
        started: `time.perf_counter()` at the request's arrival.
        stages: Seconds spent in each stage so far, in the order in which the stages came; sums over several images.
        labels: What answered (task, model, variant, ...), for the log line.
        problem: Code of the error that was answered, if one was.
        client_deadline_s: Where that was a deadline of the client's own which passed: its length, seconds.
        images: Of a request that is traced: each image's stages; None for the others.
    """

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    client_deadline_s: float | None = None
    images: list[ImageTimes] | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self.started

    def add(self, stage: str, seconds: float) -> None:
        """Adds time to a stage."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of a block to a stage, also when it raises."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - begun)

    def server_timing(self) -> str:
        """The value of the `Server-Timing` header: each stage, and the total, in milliseconds."""
        text = "".join([f"{name};dur={1000 * seconds:.3f}, " for name, seconds in self.stages.items()])
        return f"{text}total;dur={1000 * self.elapsed_s:.3f}"


def header(scope: Scope, name: bytes) -> str | None:
    """A request's header, the first of its name; what every layer asks for, without a view of all of them each.

    Args:
        scope: Of the request; servers hand over names in lower case.
        name: In lower case.
    """
    headers: dict[bytes, bytes] | None = scope.get(_HEADERS)
    if headers is None:
        headers = scope[_HEADERS] = dict(reversed(list(scope["headers"])))  # of several of a name the first stays
    value = headers.get(name)
    return None if value is None else str(value, "latin-1")


def contradicts(scope: Scope, name: bytes) -> bool:
    """Whether a request has a header more than once, with different values.

    Args:
        scope: Of the request.
        name: In lower case.
    """
    headers = scope["headers"]
    if len(scope.get(_HEADERS, ())) == len(headers):  # no name is there twice: nearly always
        return False
    return len({value for each, value in headers if each == name}) > 1


def request_id_from(given: str | None) -> str:
    """The client's id if it can be echoed and logged safely, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return random_bytes(16).hex()


def context_of(where: HTTPConnection | Scope) -> RequestContext:
    """The context that `AccessMiddleware` gave to a request."""
    scope = where.scope if isinstance(where, HTTPConnection) else where
    context: RequestContext = scope[SCOPE_KEY]
    return context
