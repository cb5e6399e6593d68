"""The error tree: every failure that a client can meet, with its status, code, detail and remedy.

Each class is one row of the API's documentation: `status` (HTTP), `code` (kebab-case, stable: clients branch on
it) and `title` (one sentence that never varies) are class attributes; `detail` (what happened, and the limit) and
`remedy` (what to do about it) are given, or built by the class from what it is told. `problem()` renders RFC 9457.

Code that is not an HTTP handler raises these too: they are ordinary exceptions that print as "detail remedy".
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]

#: Prefix of a problem's `type`: relative on purpose (RFC 9457 section 3.1.1), to this service's own address.
PROBLEM_TYPE_PREFIX = "/problems/"


class ServiceError(Exception):
    """Base of all errors that the service reports to a client.

    Args:
        detail: What happened in this occurrence, with the limit that was passed if there is one.
        remedy: What the client, or the operator, can do about it. Defaults to the class's `default_remedy`.
        headers: Further HTTP headers of the answer, such as `Retry-After`.
        extensions: Further members of the problem document (RFC 9457 section 3.2), such as the valid names.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "The service failed."
    default_remedy: ClassVar[str] = "Try again; if it happens again, report it with the request id."

    def __init__(
        self,
        detail: str,
        *,
        remedy: str | None = None,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, JsonValue] | None = None,
    ) -> None:
        self.detail = detail
        self.remedy = self.default_remedy if remedy is None else remedy
        self.headers: dict[str, str] = dict(headers or {})
        self.extensions: dict[str, JsonValue] = dict(extensions or {})
        super().__init__(f"{detail} {self.remedy}".strip())

    def problem(self, *, instance: str | None = None, request_id: str | None = None) -> dict[str, JsonValue]:
        """Renders the error as an RFC 9457 problem document.

        Args:
            instance: The path of the request, the document's `instance`.
            request_id: The id under which the request was logged.

        Returns:
            A JSON-ready dict: type, title, status, detail, code, help, and, when known, instance, request_id and
            the extensions.
        """
        document: dict[str, JsonValue] = {
            "type": PROBLEM_TYPE_PREFIX + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "help": self.remedy,
        }
        if instance is not None:
            document["instance"] = instance
        if request_id is not None:
            document["request_id"] = request_id
        for key, value in self.extensions.items():
            document.setdefault(key, value)  # an extension never replaces a member that the RFC or we define
        return document


def _named(names: Iterable[str]) -> str:
    """Lists names for a message: "a, b, c", or "none"."""
    return ", ".join(names) or "none"


# --- the upload ------------------------------------------------------------------------------------------------------


class EmptyBodyError(ServiceError):
    """400: the body, or one part of a multipart body, has no bytes."""

    status = 400
    code = "empty-body"
    title = "There is no image in the request."
    default_remedy = (
        "Send the bytes of an image as the body (curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg') "
        "or as the multipart field `file` (curl -F file=@photo.jpg)."
    )

    def __init__(self, detail: str = "The request's body is empty.", *, remedy: str | None = None) -> None:
        super().__init__(detail, remedy=remedy)


class MalformedBodyError(ServiceError):
    """400: the body is not what its content type says: a multipart body that cannot be taken apart."""

    status = 400
    code = "malformed-body"
    title = "The request's body cannot be read."
    default_remedy = "Let an HTTP library or curl -F file=@photo.jpg build the body, or send the image's bytes alone."


class UploadTimeoutError(ServiceError):
    """408: the body did not arrive in the time that the request has.

    Args:
        timeout_s: The time that the request had, seconds.
    """

    status = 408
    code = "upload-timeout"
    title = "The request's body did not arrive in time."

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"The body was not complete after {timeout_s:g} s.",
            remedy="Send a smaller image, or send it over a faster connection.",
            extensions={"timeout_s": timeout_s},
        )


class UnsupportedImageError(ServiceError):
    """415: the content, or the content type that was declared for it, is not an image format that is read here."""

    status = 415
    code = "unsupported-image"
    title = "The content is not an image that this service reads."
    default_remedy = "Send a JPEG, PNG, WebP, BMP or GIF file with its own content type, for example image/jpeg."


class BrokenImageError(ServiceError):
    """422: the content starts as an image of a known format and cannot be decoded."""

    status = 422
    code = "broken-image"
    title = "The image cannot be decoded."
    default_remedy = "Check that the whole file was sent and that it opens in an image viewer; save it again if not."


class ImageTooLargeError(ServiceError):
    """413: the image has more pixels than are decoded here.

    Args:
        width: Width that the file's header states, pixels.
        height: Height that the file's header states, pixels.
        max_pixels: The limit, pixels.
    """

    status = 413
    code = "image-too-large"
    title = "The image has too many pixels."

    def __init__(self, width: int, height: int, max_pixels: int) -> None:
        super().__init__(
            f"The image is {width} x {height} = {width * height} pixels; the limit is {max_pixels} pixels.",
            remedy="Scale the image down before sending it: the networks see a few hundred pixels a side.",
            extensions={"width": width, "height": height, "max_pixels": max_pixels},
        )


class BodyTooLargeError(ServiceError):
    """413: the body has more bytes than are read here.

    Args:
        max_bytes: The limit, bytes.
        received: What was declared or had been read when the limit was passed, bytes.
    """

    status = 413
    code = "body-too-large"
    title = "The request's body is too large."

    def __init__(self, max_bytes: int, received: int | None = None) -> None:
        has = "more" if received is None else f"{received} bytes"
        super().__init__(
            f"The limit for a body is {max_bytes} bytes; this one has {has}.",
            remedy="Send a smaller or more compressed image, or fewer images in one request.",
            extensions={"max_bytes": max_bytes},
        )


class TooManyImagesError(ServiceError):
    """413: one request carries more images than are answered at once.

    Args:
        max_images: The limit.
        received: How many there were, as far as they were counted.
    """

    status = 413
    code = "too-many-images"
    title = "The request carries too many images."

    def __init__(self, max_images: int, received: int | None = None) -> None:
        has = "more" if received is None else str(received)
        super().__init__(
            f"One request may carry {max_images} images; this one has {has}.",
            remedy="Send the images in several requests.",
            extensions={"max_images": max_images},
        )


# --- what was asked for ----------------------------------------------------------------------------------------------


class BadParameterError(ServiceError):
    """422: a query parameter, form field or header has a value that is not accepted.

    Args:
        parameter: Its name.
        detail: What is wrong with the value, and the limits.
        remedy: What to send instead.
    """

    status = 422
    code = "bad-parameter"
    title = "A parameter of the request is not valid."

    def __init__(self, parameter: str, detail: str, *, remedy: str) -> None:
        self.parameter = parameter
        super().__init__(detail, remedy=remedy, extensions={"parameter": parameter})


class NotAcceptableError(ServiceError):
    """406: the answer does not exist in any media type that the client accepts.

    Args:
        accept: The request's `Accept` header.
        available: The media types that there are.
    """

    status = 406
    code = "not-acceptable"
    title = "The answer is not available in a format that is accepted."

    def __init__(self, accept: str, available: Iterable[str]) -> None:
        names = list(available)
        super().__init__(
            f"The answer cannot be given as {accept!r}.",
            remedy=f"Accept one of: {_named(names)}.",
            extensions={"available": list[JsonValue](names)},
        )


class UnknownModelError(ServiceError):
    """404: no model of this name and version is served.

    Args:
        model: The name that was asked for.
        available: The names that are served, for this task.
        other_task: The task of the model of this name, where it is served for another task than was asked.
    """

    status = 404
    code = "unknown-model"
    title = "There is no such model."

    def __init__(self, model: str, available: Iterable[str] = (), *, other_task: str | None = None) -> None:
        names = sorted(available)
        super().__init__(
            f"There is no model {model!r} here."
            if other_task is None
            else f"The model {model!r} is for the task {other_task!r}, not for this one.",
            remedy=f"Ask for one of: {_named(names)}. GET /models describes them.",
            extensions={"model": model, "available": list[JsonValue](names)},
        )


class UnknownVariantError(ServiceError):
    """404: the variant's name is none of those that exist.

    Args:
        variant: The name that was asked for.
        available: The names that exist.
    """

    status = 404
    code = "unknown-variant"
    title = "There is no such variant."

    def __init__(self, variant: str, available: Iterable[str] = ("binary", "reference", "full")) -> None:
        names = list(available)
        super().__init__(
            f"There is no variant {variant!r}.",
            remedy=f"Ask for one of: {_named(names)}.",
            extensions={"variant": variant, "available": list[JsonValue](names)},
        )


class VariantNotServedError(ServiceError):
    """422: the variant exists, but not for this model.

    Args:
        model: The model's name.
        variant: The variant that was asked for.
        served: The variants that the model has.
        counterpart: The model that has the variant, when there is one: the binary twin of a full-precision model.
    """

    status = 422
    code = "variant-not-served"
    title = "The model has no such variant."

    def __init__(self, model: str, variant: str, served: Iterable[str], counterpart: str | None = None) -> None:
        names = list(served)
        remedy = f"Ask for {_named(names)}"
        remedy += f", or for the model {counterpart!r}, which has it." if counterpart else "."
        extensions: dict[str, JsonValue] = {"model": model, "variant": variant, "served": list[JsonValue](names)}
        if counterpart:
            extensions["counterpart"] = counterpart
        super().__init__(
            f"The model {model!r} cannot run as {variant!r}: it has {_named(names)}.",
            remedy=remedy,
            extensions=extensions,
        )


# --- the service's state ---------------------------------------------------------------------------------------------


class OverloadedError(ServiceError):
    """429: the queue is full.

    Args:
        queue_size: The queue's limit, requests.
        retry_after_s: When it is worth trying again, seconds; sent as `Retry-After`, rounded up to whole seconds.
    """

    status = 429
    code = "overloaded"
    title = "The service has more requests than it can take."

    def __init__(self, queue_size: int, retry_after_s: float = 1.0) -> None:
        seconds = max(1, -int(-retry_after_s // 1))
        super().__init__(
            f"The queue is full: {queue_size} requests wait already.",
            remedy=f"Try again in {seconds} s, and back off if it happens again.",
            headers={"Retry-After": str(seconds)},
            extensions={"queue_size": queue_size, "retry_after_s": seconds},
        )


class DeadlineExceededError(ServiceError):
    """504: the request's deadline passed before its answer was ready.

    Args:
        timeout_s: The time that the request had, seconds.
    """

    status = 504
    code = "deadline-exceeded"
    title = "The request was not answered in time."

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"The request had {timeout_s:g} s and was not finished by then.",
            remedy="Give it more time, send smaller images, or try again when the service has less to do.",
            extensions={"timeout_s": timeout_s},
        )


class NotReadyError(ServiceError):
    """503: the service is starting, draining, or has nothing to serve with."""

    status = 503
    code = "not-ready"
    title = "The service is not ready."
    default_remedy = "Try again shortly; GET /readyz says what it waits for."


class OpUnavailableError(ServiceError):
    """503: the custom op's library is missing, does not load, or has no kernel for this CPU."""

    status = 503
    code = "op-unavailable"
    title = "The bit-packed operator cannot run on this machine."
    default_remedy = "Build it with `make setup`, or set BIREAL_FALLBACK=reference to answer with the float reference."


class ModelBrokenError(ServiceError):
    """503: a model is in the zoo and cannot be served: a missing file, a wrong checksum, a graph that does not load.

    Args:
        model: The model's name, or its folder where the name is not known.
        detail: What is wrong with it.
        remedy: How to mend it.
    """

    status = 503
    code = "model-broken"
    title = "The model cannot be served."
    default_remedy = "Export the model again, or remove its folder; the other models are not affected."

    def __init__(self, model: str, detail: str, *, remedy: str | None = None) -> None:
        self.model = model
        super().__init__(f"{model}: {detail}", remedy=remedy, extensions={"model": model})


class CardError(ModelBrokenError):
    """503: a model's card is missing or not valid; names the file, the field and the remedy."""

    code = "card-invalid"
    title = "The model's card is not valid."
    default_remedy = "Correct the card, or export the model again."


class BadOutputError(ServiceError):
    """500: a network's output has the wrong shape or is not finite."""

    status = 500
    code = "bad-output"
    title = "The network's output cannot be used."
    default_remedy = "Report it with the request id; the variant `reference` may answer meanwhile."


class SettingsError(ServiceError):
    """A setting is not valid: raised at start, so never sent; names the variable, the value and what is accepted."""

    code = "settings-invalid"
    title = "A setting is not valid."
    default_remedy = "docs/settings.md lists every setting."


def error_classes() -> Iterator[type[ServiceError]]:
    """Yields every class of the tree, base first, for the API's documentation and for tests."""
    pending: list[type[ServiceError]] = [ServiceError]
    while pending:
        current = pending.pop(0)
        yield current
        pending.extend(current.__subclasses__())
