"""Errors in an upload: the body, and the image in it."""

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
    """400: the body does not match its content type, such as a multipart body that cannot be parsed."""

    status = 400
    code = "malformed-body"
    title = "The request's body cannot be read."
    default_remedy = "Build the body with an HTTP library or curl -F file=@photo.jpg, or send only the image's bytes."


class UploadTimeoutError(ServiceError):
    """408: the body did not arrive before the request's deadline.

    Args:
        timeout_s: The time that the request had, seconds.
    """

    status = 408
    code = "upload-timeout"
    title = "The request's body did not arrive in time."
    default_remedy = "Send a smaller body, or send it over a faster connection."

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"The body was not complete after {timeout_s:g} s.",
            extensions={"timeout_s": timeout_s},
        )


class UnsupportedImageError(ServiceError):
    """415: the content, or its declared content type, is not a supported image format."""

    status = 415
    code = "unsupported-image"
    title = "The content is not an image that this service reads."
    default_remedy = "Send a JPEG, PNG, WebP, BMP or GIF file with its own content type, for example image/jpeg."
    default_local_remedy = "Convert it to JPEG, PNG, WebP, BMP or GIF."
    #: For bytes that look as if curl's -d had sent them: it strips line breaks and NUL bytes.
    curl_remedy: ClassVar[str] = f"{default_remedy} With curl, use --data-binary @FILE, not -d, which changes the file."


class UnsupportedEncodingError(ServiceError):
    """415: the service does not decode the body's content encoding.

    Args:
        encoding: The request's `Content-Encoding`.
        available: The supported encodings; empty where the path accepts none.
    """

    status = 415
    code = "unsupported-encoding"
    title = "The body's encoding is not supported."
    default_remedy = "Send it uncompressed: images are compressed already, and only /v2 accepts compressed JSON."

    def __init__(self, encoding: str, *, available: Sequence[str] = ()) -> None:
        super().__init__(
            f"The body is encoded as {encoding[:40]!r}.",
            remedy=f"Send it uncompressed, or with {' or '.join(available)}." if available else None,
            headers={"Accept-Encoding": ", ".join(available) or "identity"},  # RFC 9110 section 15.5.16
        )


class BrokenImageError(ServiceError):
    """422: the content starts like an image of a known format but cannot be decoded."""

    status = 422
    code = "broken-image"
    title = "The image cannot be decoded."
    default_remedy = (
        "Check that the whole file was sent (with curl: --data-binary @FILE, not -d) and opens in a viewer."
    )
    default_local_remedy = "Check that it opens in a viewer."


class ImageTooLargeError(ServiceError):
    """413: the image has more pixels than the limit, or a side is longer than the limit.

    Args:
        width: Width according to the file's header, pixels.
        height: Height according to the file's header, pixels.
        max_pixels: The limit on width x height, pixels.
        max_side: The limit on each of them, pixels.
    """

    status = 413
    code = "image-too-large"
    title = "The image has too many pixels."
    default_remedy = "Scale the image down before sending it: the networks see only a few hundred pixels per side."

    def __init__(self, width: int, height: int, max_pixels: int, max_side: int) -> None:
        limit = f"{max_pixels} pixels" if width * height > max_pixels else f"{max_side} pixels per side"
        super().__init__(
            f"The image is {width} x {height} = {width * height} pixels; the limit is {limit}.",
            extensions={"width": width, "height": height, "max_pixels": max_pixels, "max_side": max_side},
        )


class ImageTooComplexError(ServiceError):
    """413: the image has so many parts, such as scans or segments, that decoding would take seconds to minutes.

    Args:
        kind: The image format.
        parts: What exceeds the limit, in the plural.
        limit: The limit.
    """

    status = 413
    code = "image-too-complex"
    title = "The image has too many parts."
    default_remedy = "Open the image in an image editor, save it as a plain JPEG or PNG, and send that."

    def __init__(self, kind: str, parts: str, limit: int) -> None:
        super().__init__(
            f"The {kind} file has more than the limit of {limit} {parts}.",
            extensions={"limit": limit},
        )


class BodyTooLargeError(ServiceError):
    """413: the body has more bytes than the limit.

    Args:
        max_bytes: The limit, bytes.
        received: The declared size, or what had been read when the limit was exceeded, bytes.
    """

    status = 413
    code = "body-too-large"
    title = "The request's body is too large."
    default_remedy = "Send a smaller or more compressed image, or fewer images in one request."

    def __init__(self, max_bytes: int, received: int | None = None) -> None:
        has = "more" if received is None else f"{received} bytes"
        super().__init__(
            f"The limit for a body is {max_bytes} bytes; this one has {has}.",
            extensions={"max_bytes": max_bytes},
        )


class TooManyImagesError(ServiceError):
    """413: one request carries more images than the limit.

    Args:
        max_images: The limit.
        received: How many images were counted.
    """

    status = 413
    code = "too-many-images"
    title = "The request carries too many images."
    default_remedy = "Send the images in several requests."

    def __init__(self, max_images: int, received: int | None = None) -> None:
        has = "more" if received is None else str(received)
        may_carry = "one image" if max_images == 1 else f"{max_images} images"
        super().__init__(
            f"One request may carry {may_carry}; this one has {has}.",
            extensions={"max_images": max_images},
        )
