"""Parses the rest of a request that asks for an upgrade, which this server never grants.

After such a head, httptools takes everything that follows for the other protocol and skips the body. Clients do send
both: Java's client and curl ask for HTTP/2 (`Upgrade: h2c`) with each first request, body included. A server that does
not upgrade ignores the header field (RFC 9110 section 7.8), so the body and later requests must still be parsed.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import httptools

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# The headers that say where a body ends. The first parser has already refused a request that has both.
_FRAMING = (b"content-length", b"transfer-encoding")


def announces_body(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether headers (names in lower case) say that a body follows."""
    return any(name in _FRAMING for name, _ in headers)


def parser_of_rest(
    protocol: "HttpToolsProtocol", headers: Sequence[tuple[bytes, bytes]]
) -> httptools.HttpRequestParser:
    """A parser for what follows a head that has already been parsed and passed to the callbacks.

    Args:
        protocol: Receives the callbacks.
        headers: The headers of that head, names in lower case.
    """
    calls = _Calls(protocol)
    parser = httptools.HttpRequestParser(calls)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does with a connection's first parser
    if announces_body(headers):
        framing = b"".join(b"%b: %b\r\n" % header for header in headers if header[0] in _FRAMING)
        parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
    calls.within_known_head = False
    return parser


class _Calls:
    """Callbacks of a protocol, except those of the head that the new parser is fed a second time."""

    def __init__(self, protocol: "HttpToolsProtocol") -> None:
        self._protocol = protocol
        self.within_known_head = True
        for name in ("on_body", "on_chunk_header", "on_message_complete"):
            setattr(self, name, getattr(protocol, name))

    def on_message_begin(self) -> None:
        if not self.within_known_head:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self.within_known_head:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.within_known_head:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.within_known_head:
            self._protocol.on_headers_complete()
