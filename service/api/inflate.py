"""Compressed bodies, undone with a bound: 20 kB of gzip can hold 20 MB of zeros."""

import zlib

from service.errors import BodyTooLargeError, MalformedBodyError, UnsupportedEncodingError

#: Values of `Content-Encoding` by which a body is as it is.
IDENTITY = ("", "identity")
# Of zlib's `wbits`: gzip's header, or zlib's (which HTTP calls deflate, RFC 9110 section 8.4.1.2).
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

_AVAILABLE = ("gzip", "deflate")


def inflate(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """Undoes a body's `Content-Encoding`.

    Args:
        body: As it was sent.
        encoding: The header's value; empty where there is none.
        max_bytes: Most bytes of the result; no more are ever made.

    Returns:
        The body before it was compressed.

    Raises:
        UnsupportedEncodingError: Neither gzip nor deflate, or several at once.
        BodyTooLargeError: The result has more bytes than the limit.
        MalformedBodyError: The body is not of this encoding, or was cut short.
    """
    name = encoding.strip().lower()
    if name in IDENTITY:
        return body
    if name not in _WINDOW:
        raise UnsupportedEncodingError(encoding, available=_AVAILABLE)
    inflater = zlib.decompressobj(_WINDOW[name])
    try:
        content = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise _malformed(name, "it cannot be decompressed") from error
    if len(content) > max_bytes:
        raise BodyTooLargeError(max_bytes)
    if not inflater.eof:
        raise _malformed(name, "it ends too early")
    if inflater.unused_data:
        raise _malformed(name, "something follows after its end")
    return content


def _malformed(name: str, what: str) -> MalformedBodyError:
    return MalformedBodyError(
        f"The body is said to be encoded as {name}: {what}.",
        remedy="Compress the whole body once, or send it as it is.",
    )
