"""uvicorn's HTTP protocol with fewer system calls per request, and with limits on everything but the body.

* **One write per answer.** The head of an answer is held back until its body follows. uvicorn writes them separately,
  which sends two packets and wakes the client twice.
* **Reading ahead.** Reading from a connection pauses once 1 MiB of a body waits for the application. uvicorn's limit is
  64 kB, but most images are larger, and arrive before the application asks for them.
* **Limits on heads.** The request line and headers have a maximum size and a maximum time. The parser appends each
  piece of an unfinished header to the pieces before it, in the event loop, so one connection with an endless header
  would delay all others. Trailers after a chunked body have the same maximum size; their time is that of the body.
* **Upgrades.** A request that asks for an upgrade is read to its end, although no upgrade is ever granted
  (`service.server.continued`).
* **Disconnects.** The code that answers a request learns at once when its connection ends (`service.server.presence`).
* **Errors.** Data that is not HTTP gets a problem document, like every other error. It is also counted like one, but
  here, because the application never sees it.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from http import HTTPStatus

import httptools
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import PROBLEM_MEDIA_TYPE, HeadTimeoutError, HeadTooLargeError, MalformedRequestError, ServiceError
from service.request_id import REQUEST_ID_HEADER, request_id_from
from service.server.continued import announces_body, parser_of_rest
from service.server.linger import LINGER_BYTES, LINGER_S
from service.server.presence import PRESENCE_KEY, Presence

log = logging.getLogger(__name__)

#: Bytes of a body that a connection may hold before they are asked for.
READ_AHEAD_BYTES = 1 << 20
# What is larger is not copied to spare a call.
_COPIED_BYTES = 1 << 16


class OnePiece:
    """A transport that keeps a first piece back until the next one follows, or the event loop's next turn.

    The head and the body of an answer leave in one write; uvicorn makes two, whatever response it is given. Without it,
    an answer takes 6.4 us more CPU (15 % of 42 us) with an application that does nothing, and in the whole service a
    small picture's `/classify` 0.00 to 0.14 ms more (95 % interval; of 1.81 ms; Zen 4 with AVX-512).

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

    def write_eof(self) -> None:
        """See `asyncio.WriteTransport.write_eof`."""
        self._flush()
        self._transport.write_eof()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See `asyncio.Transport.set_protocol`."""
        self._transport.set_protocol(protocol)


class Protocol(HttpToolsProtocol):
    """See the module's text.

    Attributes:
        head_bytes: Most bytes of a request line and headers; of trailers; and of anything else that is no body.
        answered: Called with each error that is answered here, and whether the application counts a request for it, as
            it does if a body breaks off. See `counted_by`.
        head_s: Longest time from the first byte of a request line to the end of the headers, seconds; where the request
            before it was still being answered, from the end of that answer.
    """

    head_bytes = 1 << 16
    head_s = 10.0
    answered: Callable[[ServiceError, bool], None] = staticmethod(lambda error, begun: None)  # noqa: ARG005

    # Bytes since the parser last had something whole: a head, a piece of a body, a chunk's size, a request.
    _unfinished = 0
    _head_begun = False
    _timer: asyncio.TimerHandle | None = None
    _refused = False
    _thrown_away = 0
    _body_follows = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called when a client has connected."""
        super().connection_made(OnePiece(transport, self.loop))  # type: ignore[arg-type]
        self._presence = Presence()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection is closed, by whichever side."""
        self._stop_timer()
        super().connection_lost(exc)
        self._presence.leave()

    def data_received(self, data: bytes) -> None:
        """Called with what has arrived."""
        if self._refused:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self.transport.close()
            return
        self._unfinished += len(data)
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._parse(data)
        except httptools.HttpParserError:
            if not self._refused:
                self._refuse(MalformedRequestError())
            return
        if self.transport.is_closing():
            return
        if self._unfinished > self.head_bytes:
            self._refuse(HeadTooLargeError(self.head_bytes))
        elif self._head_begun and self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self._head_is_late)

    def _parse(self, data: bytes) -> bytes:
        """Reads on. Returns what another parser is to read."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as end:
            self._body_follows = False
            self.parser = parser_of_rest(self, self.headers)
            return data[end.args[0] :]
        return b""

    def on_message_begin(self) -> None:
        """Called with the first byte of a request."""
        self._head_begun = True
        super().on_message_begin()
        self.scope[PRESENCE_KEY] = self._presence  # type: ignore[literal-required]  # a key of our own

    def on_headers_complete(self) -> None:
        """Called at the end of a request's headers."""
        # The pieces that it came in may hold some of the body, too.
        if self._unfinished > self.head_bytes and self._head_size() > self.head_bytes:
            error = HeadTooLargeError(self.head_bytes)
            self._refuse(error)
            raise error  # ends the parsing
        self._head_begun, self._unfinished = False, 0
        self._stop_timer()
        self._body_follows = self.parser.should_upgrade() and announces_body(self.headers)
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Called with the size of each chunk of a body; that of the last one is 0, and trailers follow."""
        self._unfinished = 0

    def on_body(self, body: bytes) -> None:
        """Called with each piece of a body."""
        self._unfinished = 0
        cycle = self.cycle
        if cycle.response_complete or self.parser.should_upgrade():
            super().on_body(body)
            return
        cycle.body += body
        if len(cycle.body) > READ_AHEAD_BYTES:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Called at the end of a request."""
        self._unfinished = 0
        if not self._body_follows:  # the parser says so, too, where a request to upgrade has a body to come
            super().on_message_complete()
        if not self.pipeline:  # who does not read notices no end of the connection; what is pipelined has to wait
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """Called when a request has been answered: if the next one was begun meanwhile, its time starts anew."""
        if self._head_begun and self._timer is not None:
            self._stop_timer()
            self._timer = self.loop.call_later(self.head_s, self._head_is_late)
        super().on_response_complete()

    def _head_size(self) -> int:
        """Bytes of the request line and the headers that were parsed, without what separates them."""
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        self._timer = None
        if self._answering():  # the next request's time begins with the answer
            self._timer = self.loop.call_later(self.head_s, self._head_is_late)
        else:
            self._refuse(HeadTimeoutError(self.head_s))

    def _answering(self) -> bool:
        """Whether the request that was last parsed has not been answered yet."""
        return not getattr(self.cycle, "response_complete", True)  # None before the first request

    def _refuse(self, error: ServiceError) -> None:
        """Answers what cannot be read to its end, and closes the connection once the client could see that."""
        self._stop_timer()
        begun = False
        within_head, self._head_begun = self._head_begun, False
        self._refused, self._unfinished = True, 0
        if self._answering():
            if within_head:  # the answers to the requests before it are the last ones
                self.cycle.keep_alive = False
                return
            if self.pipeline:  # it waits for its turn, and in its turn it is refused
                self.answered(error, begun)
                headers, body = _problem(error)
                refusal = Response(body, error.status, headers)
                self.pipeline[0] = self.cycle, refusal  # type: ignore[assignment]  # Starlette types ASGI more loosely
                return
            # Within its own body: to the application the client has gone.
            self.cycle.disconnected = self.cycle.response_complete = True
            self.cycle.message_event.set()
            self._presence.leave()
            if self.cycle.response_started:
                self.transport.close()
                return
            begun = True
        self.answered(error, begun)
        headers, body = _problem(error)
        lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        if isinstance(error, HeadTimeoutError):
            self.transport.close()  # nothing comes that would have the answer thrown away
        else:
            self.flow.resume_reading()
            self.transport.write_eof()
            self._timer = self.loop.call_later(LINGER_S, self.transport.close)


def counted_by(count: Callable[[ServiceError, bool], None]) -> type[Protocol]:
    """The protocol with `Protocol.answered`: uvicorn makes its instances, and gives them nothing of ours."""

    class Counted(Protocol):
        answered = staticmethod(count)

    return Counted


def _problem(error: ServiceError) -> tuple[dict[str, str], bytes]:
    """Headers and body of the last answer on a connection."""
    request_id = request_id_from(None)
    log.info("%s: %s (%s)", error.code, error.detail, request_id)
    body = json.dumps(error.problem(request_id=request_id)).encode()
    headers = {
        "content-type": PROBLEM_MEDIA_TYPE,
        "content-length": str(len(body)),
        REQUEST_ID_HEADER: request_id,
        "connection": "close",
    }
    return headers, body
