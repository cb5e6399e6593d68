"""A load generator that uses little CPU: it repeats one request on keep-alive connections.

It is made for measuring a server's CPU cost on a machine whose CPUs it shares with the server. The request is encoded
once, only the status and the length of a response are parsed, and one `epoll` waits for all connections, so a request
takes two or three system calls.
"""

import contextlib
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_PIECE = 1 << 18
_SILENCE_S = 60.0


class LoadError(Exception):
    """A server did not respond as expected; the message says what it did."""


@dataclass(frozen=True, slots=True)
class Driven:
    """The result of a load.

    Attributes:
        requests: number of requests, all answered with 200.
        seconds: time from the first byte sent to the end of the last response.
        client_cpu_s: CPU time of the generator, user and system.
        latencies_s: latency of each request, from its first byte sent to the end of its response, unordered.
    """

    requests: int
    seconds: float
    client_cpu_s: float
    latencies_s: tuple[float, ...]

    @property
    def per_s(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


@dataclass(slots=True)
class _Connection:
    """One connection, and the state of its request and response."""

    socket: socket.socket
    unsent: memoryview
    begun: float
    received: bytearray = field(default_factory=bytearray)
    whole: int | None = None  # size of the response, head and body, once the head has been received
    writing: bool = False  # whether epoll waits until more can be sent


def post(url: str, body: bytes, *, requests: int, at_once: int, headers: Mapping[str, str] | None = None) -> Driven:
    """Sends the same POST request repeatedly.

    Args:
        url: `http://HOST:PORT/PATH`.
        body: Body of the request.
        requests: Number of requests.
        at_once: Number of connections; each has one request in flight.
        headers: Headers besides `Host`, `Content-Type` (application/octet-stream) and `Content-Length`.

    Raises:
        LoadError: A response other than 200 or without `Content-Length`, a closed connection, or a minute of silence.
        OSError: The server cannot be reached.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    lines = [f"POST {parts.path or '/'} HTTP/1.1", f"Host: {host}:{port}", "Content-Type: application/octet-stream"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
    request = memoryview(head + body)
    latencies: list[float] = []
    connections: dict[int, _Connection] = {}
    poll = select.epoll()
    cpu, clock = time.process_time(), time.perf_counter()
    try:
        for _ in range(min(at_once, requests)):
            connection = _open(host, port, len(request))
            connections[connection.fileno()] = _Connection(connection, request, 0.0)
            poll.register(connection, select.EPOLLIN)
        unbegun = requests - len(connections)
        for each in connections.values():
            _begin(each, request, poll)
        while len(latencies) < requests:
            ready = poll.poll(_SILENCE_S)
            if not ready:
                raise LoadError(f"{url}: no response for {_SILENCE_S:g} s.")
            for number, event in ready:
                each = connections[number]
                if event & select.EPOLLOUT:
                    _send(each, poll)
                if event & ~select.EPOLLOUT and _receive(each, url):
                    latencies.append(time.perf_counter() - each.begun)
                    if unbegun:
                        unbegun -= 1
                        _begin(each, request, poll)
        return Driven(requests, time.perf_counter() - clock, time.process_time() - cpu, tuple(latencies))
    finally:
        poll.close()
        for each in connections.values():
            each.socket.close()


def _open(host: str, port: int, room: int) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=_SILENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * room)  # so that one call sends a whole request
    connection.setblocking(False)
    return connection


def _begin(connection: _Connection, request: memoryview, poll: select.epoll) -> None:
    connection.unsent, connection.begun = request, time.perf_counter()
    _send(connection, poll)


def _send(connection: _Connection, poll: select.epoll) -> None:
    """Sends as much as the system accepts, and registers with epoll for the rest."""
    with contextlib.suppress(BlockingIOError):
        connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
    left = len(connection.unsent) > 0
    if left != connection.writing:
        connection.writing = left
        poll.modify(connection.socket, select.EPOLLIN | (select.EPOLLOUT if left else 0))


def _receive(connection: _Connection, url: str) -> bool:
    """Receives available data. Returns whether the response is complete."""
    piece = connection.socket.recv(_PIECE)
    if not piece:
        raise LoadError(f"{url}: the connection was closed before the response was complete.")
    connection.received += piece
    if connection.whole is None:
        head, end, _ = connection.received.partition(b"\r\n\r\n")
        if not end:
            return False
        connection.whole = len(head) + len(end) + _length(bytes(head), url)
    if len(connection.received) < connection.whole:
        return False
    connection.received.clear()
    connection.whole = None
    return True


def _length(head: bytes, url: str) -> int:
    """Size of a response's body, from its head."""
    status, *fields = head.split(b"\r\n")
    if status.split(b" ")[1:2] != [b"200"]:
        raise LoadError(f"{url}: response {status.decode('latin-1')}.")
    for line in fields:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise LoadError(f"{url}: response without Content-Length.")
