"""What can be wrong with a request before its body: the request line and the headers."""

from service.errors.base import ServiceError


class HeadTooLargeError(ServiceError):
    """431: the request line and the headers, or the trailers after a chunked body, have more bytes than are read here.

    Args:
        max_bytes: The limit, bytes.
    """

    status = 431
    code = "head-too-large"
    title = "The request's headers are too large."

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            f"The limit for the request line and the headers, and for trailers, is {max_bytes} bytes; here are more.",
            remedy="Send fewer or shorter headers; what is long belongs into the body.",
            extensions={"max_bytes": max_bytes},
        )


class HeadTimeoutError(ServiceError):
    """408: the request line and the headers did not arrive in their time.

    Args:
        timeout_s: The time that they have from their first byte, seconds.
    """

    status = 408
    code = "head-timeout"
    title = "The request's headers did not arrive in time."

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"The request line and the headers were not complete {timeout_s:g} s after their first byte.",
            remedy="Send them at once; try again over a faster connection.",
            extensions={"timeout_s": timeout_s},
        )


class MalformedRequestError(ServiceError):
    """400: what arrived is no HTTP/1.1."""

    status = 400
    code = "malformed-request"
    title = "The request cannot be read."

    def __init__(self) -> None:
        super().__init__(
            "What arrived is no HTTP/1.1 request, or its end or its target cannot be told.",
            remedy="Ask by http:// and not https://, unless a proxy before the service ends TLS; check the client.",
        )
