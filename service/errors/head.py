"""Errors in the head of a request: the request line and the headers."""

from service.errors.base import ServiceError


class HeadTooLargeError(ServiceError):
    """431: the request line and headers, or the trailers of a chunked body, exceed the size limit.

    Args:
        max_bytes: The limit, bytes.
    """

    status = 431
    code = "head-too-large"
    title = "The request's headers are too large."
    default_remedy = "Send fewer or shorter headers, and put long values into the body."

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            f"The request line and headers, or the trailers, exceed the limit of {max_bytes} bytes.",
            extensions={"max_bytes": max_bytes},
        )


class HeadTimeoutError(ServiceError):
    """408: the request line and the headers did not arrive in time.

    Args:
        timeout_s: The time allowed from the first byte, seconds.
    """

    status = 408
    code = "head-timeout"
    title = "The request's headers did not arrive in time."
    default_remedy = "Send them without delay, or try again over a faster connection."

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"The request line and the headers were not complete {timeout_s:g} s after their first byte.",
            extensions={"timeout_s": timeout_s},
        )


class MalformedRequestError(ServiceError):
    """400: the received bytes are not an HTTP/1.1 request."""

    status = 400
    code = "malformed-request"
    title = "The request cannot be read."
    default_remedy = "Check the client. Use http://, not https://, unless a proxy in front of the service ends TLS."

    def __init__(self) -> None:
        super().__init__("This is not a valid HTTP/1.1 request, or its length or target is ambiguous.")
