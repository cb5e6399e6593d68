"""Errors of the service itself: its load, its models, its settings."""

from typing import Literal

from service.errors.base import ServiceError

#: The queues of the service: images before a network, images before decoding, bodies, answers to encode.
QueueName = Literal["network", "decoding", "bodies", "answers"]

_QUEUES: dict[QueueName, str] = {
    "network": "The queue of the network is full: at most {} images may wait.",
    "decoding": "The queue of the decoding threads is full: at most {} images of a task may wait to be decoded.",
    "bodies": "The queue of the decoding threads is full: at most {} request bodies may wait to be read.",
    "answers": "The queue of the decoding threads is full: at most {} answers of a task may wait to be made.",
}


class OverloadedError(ServiceError):
    """429: a queue is full.

    Args:
        queue_size: The queue's limit.
        retry_after_s: Seconds after which to try again; sent as `Retry-After`, rounded up to whole seconds.
        queue: Which queue.
    """

    status = 429
    code = "overloaded"
    title = "The service has more requests than it can handle."
    default_remedy = "Try again after the seconds that `Retry-After` names, and back off if it happens again."

    def __init__(self, queue_size: int, retry_after_s: float, queue: QueueName) -> None:
        seconds = max(1, -int(-retry_after_s // 1))
        super().__init__(
            _QUEUES[queue].format(queue_size),
            remedy=f"Try again in {seconds} s, and back off if it happens again.",
            headers={"Retry-After": str(seconds)},
            extensions={"queue": queue, "queue_size": queue_size, "retry_after_s": seconds},
        )


class DeadlineExceededError(ServiceError):
    """504: the request's deadline passed before its answer was ready.

    Args:
        timeout_s: The time that the request had, seconds.
        by_client: Whether the client set this deadline, below the service's own limit.
    """

    status = 504
    code = "deadline-exceeded"
    title = "The request was not answered in time."
    default_remedy = "Allow more time, send smaller images, or try again when the service is less busy."

    def __init__(self, timeout_s: float, *, by_client: bool = False) -> None:
        self.timeout_s, self.by_client = timeout_s, by_client
        super().__init__(
            f"The request had {timeout_s:g} s and was not finished by then.",
            extensions={"timeout_s": timeout_s, "set_by": "client" if by_client else "service"},
        )


class NotReadyError(ServiceError):
    """503: the service is starting, draining, or has no model to serve. Sent with `Retry-After`.

    Args:
        detail: What the service is waiting for.
        remedy: What to do other than trying again.
    """

    status = 503
    code = "not-ready"
    title = "The service is not ready."
    default_remedy = "Try again shortly. GET /readyz says what the service is waiting for."

    def __init__(self, detail: str, *, remedy: str | None = None) -> None:
        super().__init__(detail, remedy=remedy, headers={"Retry-After": "2"})


class OpUnavailableError(ServiceError):
    """503: the custom operator's library is missing, does not load, or has no kernel for this CPU."""

    status = 503
    code = "op-unavailable"
    title = "The bit-packed operator cannot run on this machine."
    default_remedy = "Build it with `make setup`, or set BIREAL_FALLBACK=reference to answer with the float reference."


class ModelBrokenError(ServiceError):
    """503: a model in the zoo cannot be served: a missing file, a wrong checksum, or a graph that does not load.

    Args:
        model: The model's name, or its folder if the name is not known.
        detail: What is wrong with it.
        remedy: How to fix it.
    """

    status = 503
    code = "model-broken"
    title = "The model cannot be served."
    default_remedy = "Export the model again, or remove its folder; the other models are not affected."

    def __init__(self, model: str, detail: str, *, remedy: str | None = None) -> None:
        self.model = model
        super().__init__(f"{model}: {detail}", remedy=remedy, extensions={"model": model})


class CardError(ModelBrokenError):
    """503: a model's card is missing or not valid. The message names the file, the field and the remedy."""

    code = "card-invalid"
    title = "The model's card is not valid."
    default_remedy = "Correct the card, or export the model again."


class BadOutputError(ServiceError):
    """500: a network's output has the wrong shape or is not finite."""

    status = 500
    code = "bad-output"
    title = "The network's output cannot be used."
    default_remedy = "Report it with the request id. Until it is fixed, try the variant `reference`."


class SettingsError(ServiceError):
    """A setting is not valid. Raised at startup, so no client sees it; names the variable, its value and the rule."""

    code = "settings-invalid"
    title = "A setting is not valid."
    default_remedy = "docs/settings.md lists every setting."
