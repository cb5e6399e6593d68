"""Bounded decompression of bodies: 20 kB of gzip can contain 20 MB of zeros."""

import zlib

from service.errors import BodyTooLargeError, MalformedBodyError, UnsupportedEncodingError

#: Values of `Content-Encoding` that mean no compression.
IDENTITY = ("", "identity")
# zlib's `wbits`: for the gzip header, or the zlib header (which HTTP calls deflate, RFC 9110 section 8.4.1.2).
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

_AVAILABLE = ("gzip", "deflate")


def inflate(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """Decompresses a body according to its `Content-Encoding`.

    Args:
        body: The body as sent.
        encoding: The header's value; empty if there is none.
        max_bytes: Limit on the size of the result; never exceeded, not even temporarily.

    Returns:
        The decompressed body.

    Raises:
        UnsupportedEncodingError: The encoding is neither gzip nor deflate, or there are several.
        BodyTooLargeError: The result has more bytes than the limit.
        MalformedBodyError: The body does not have this encoding, or is truncated.
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
        raise _malformed(name, "there is more data after its end")
    return content


def _malformed(name: str, what: str) -> MalformedBodyError:
    return MalformedBodyError(
        f"The body does not match its encoding {name}: {what}.",
        remedy="Compress the whole body once, or send it uncompressed.",
    )
