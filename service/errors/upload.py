"""What can be wrong with an upload: the body, and the image in it."""

from collections.abc import Sequence
from typing import ClassVar

from service.errors.base import ServiceError


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
    #: Where the bytes look as if curl's -d had sent them, which takes out line breaks and NULs.
    curl_remedy: ClassVar[str] = f"{default_remedy} With curl, use --data-binary @FILE, not -d, which changes the file."


class UnsupportedEncodingError(ServiceError):
    """415: the body is compressed in a way that is not undone here.

    Args:
        encoding: The request's `Content-Encoding`.
        available: What is undone; none where bodies are taken as they are.
    """

    status = 415
    code = "unsupported-encoding"
    title = "The body's encoding is not supported."

    def __init__(self, encoding: str, *, available: Sequence[str] = ()) -> None:
        super().__init__(
            f"The body is encoded as {encoding[:40]!r}.",
            remedy=f"Send it as it is, or with {' or '.join(available)}."
            if available
            else "Send it as it is: pictures are compressed already, and of JSON /v2 alone takes compressed bodies.",
            headers={"Accept-Encoding": ", ".join(available) or "identity"},  # RFC 9110 section 15.5.16
        )


class BrokenImageError(ServiceError):
    """422: the content starts as an image of a known format and cannot be decoded."""

    status = 422
    code = "broken-image"
    title = "The image cannot be decoded."
    default_remedy = (
        "Check that the whole file was sent (with curl: --data-binary @FILE, not -d) and opens in a viewer."
    )


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


class ImageTooComplexError(ServiceError):
    """413: the image has more parts, such as scans or segments, than are read here; it would take seconds to minutes.

    Args:
        kind: The format.
        parts: What there is too much of, in the plural.
        limit: How many there may be.
    """

    status = 413
    code = "image-too-complex"
    title = "The image has too many parts."

    def __init__(self, kind: str, parts: str, limit: int) -> None:
        super().__init__(
            f"The {kind} file has more than {limit} {parts}, the limit.",
            remedy="Open the picture in an image editor, save it as a plain JPEG or PNG, and send that.",
            extensions={"limit": limit},
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
        may_carry = "one image" if max_images == 1 else f"{max_images} images"
        super().__init__(
            f"One request may carry {may_carry}; this one has {has}.",
            remedy="Send the images in several requests.",
            extensions={"max_images": max_images},
        )
