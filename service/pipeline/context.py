"""The context of a request: its id, its clock, the time spent in each stage, and what answered it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ImageTimes:
    """The stages of one image in one network, for a trace.

    Attributes:
        labels: What ran: task, model, version, variant, kernel.
        batch_size: Number of images in the batch.
        stages: Name, start by `time.perf_counter()` and duration in seconds of each stage.
    """

    labels: Mapping[str, object]
    batch_size: int
    stages: tuple[tuple[str, float, float], ...]


@dataclass(slots=True)
class RequestContext:
    """The state of one request.

    Attributes:
        request_id: The client's `x-request-id` if that is well-formed, else a new one.
        started: `time.perf_counter()` at the request's arrival.
        stages: Seconds spent in each stage so far, summed over the images, in the order of the stages.
        labels: What answered (task, model, variant, ...), for the log line.
        problem: Code of the error that was sent, if any.
        client_deadline_s: Length of the deadline, seconds, if the client set it itself and it passed.
        images: The stages of each image if the request is traced; else None.
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
        """Adds seconds to a stage."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the duration of a block to a stage, even if the block raises."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - begun)

    def server_timing(self) -> str:
        """The value of the `Server-Timing` header: each stage, and the total, in milliseconds."""
        text = "".join([f"{name};dur={1000 * seconds:.3f}, " for name, seconds in self.stages.items()])
        return f"{text}total;dur={1000 * self.elapsed_s:.3f}"
