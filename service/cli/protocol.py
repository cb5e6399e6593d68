"""uvicorn's HTTP protocol with fewer calls of the system for each request.

* An answer's head and its body leave in one piece: uvicorn writes them one after the other, which sends two packets and
  wakes the client twice.
* Reading from a connection is paused once 1 MiB of a body waits, and not once 64 kB do: most pictures are larger than
  that, and arrive before the application has asked for them.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Bytes of a body that a connection may hold before they are asked for.
READ_AHEAD_BYTES = 1 << 20
# What is larger is not copied to spare a call.
_COPIED_BYTES = 1 << 16


class OnePiece:
    """A transport that keeps a first piece back until the next one follows, or the event loop's next turn.

    Args:
        transport: What sends.
        loop: The event loop.
    """

    __slots__ = ("_held", "_loop", "_transport", "get_extra_info", "is_closing", "pause_reading", "resume_reading")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: bytes | None = None
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        """See `asyncio.Transport.write`."""
        held = self._held
        if held is None:
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._held = None
            if len(data) > _COPIED_BYTES:
                self._transport.write(held)
                self._transport.write(data)
            else:
                self._transport.write(held + data)

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._transport.write(held)

    def close(self) -> None:
        """See `asyncio.Transport.close`."""
        self._flush()
        self._transport.close()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See `asyncio.Transport.set_protocol`."""
        self._transport.set_protocol(protocol)


class Protocol(HttpToolsProtocol):
    """See the module's text."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called when a client has connected."""
        super().connection_made(OnePiece(transport, self.loop))  # type: ignore[arg-type]

    def on_body(self, body: bytes) -> None:
        """Called with each piece of a body."""
        cycle = self.cycle
        if cycle.response_complete or self.parser.should_upgrade():
            super().on_body(body)
            return
        cycle.body += body
        if len(cycle.body) > READ_AHEAD_BYTES:
            self.flow.pause_reading()
        cycle.message_event.set()
