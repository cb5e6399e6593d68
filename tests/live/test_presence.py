"""A client that goes while its answer is made: noticed at once, with the service's own server. Over real sockets."""

import asyncio
import threading
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

from service.api.body import read_body
from service.scheduler import Deadline
from service.server.presence import PRESENCE_KEY, Presence, while_connected
from service.server.protocol import READ_AHEAD_BYTES, Protocol
from tests.sockets import connected, listening

LONG_S = 20.0


class Application:
    """Answers `/short` at once, and works on everything else until the client has gone."""

    def __init__(self) -> None:
        self.begun, self.dropped = threading.Event(), threading.Event()
        self.tasks: set[str] = set()

    async def __call__(self, scope, receive, send) -> None:
        request = Request(scope, receive, send)
        body = await read_body(request, Deadline.after(LONG_S))
        try:
            await while_connected(request, self.work(request.url.path))
        except ClientDisconnect:
            self.dropped.set()
            raise
        assert scope[PRESENCE_KEY].on_leave is None
        self.tasks = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}
        await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)

    async def work(self, path: str) -> None:
        self.begun.set()
        await asyncio.sleep(0.1 if path == "/short" else LONG_S)


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def port(application) -> Iterator[int]:
    with listening(application, http=Protocol, ws="none") as port:
        yield port


def post(path: str, size: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size)


@pytest.mark.parametrize("size", [10, 3 * READ_AHEAD_BYTES], ids=["small body", "more than is read ahead"])
def test_work_ends_when_the_client_goes(application, port, size):
    with connected(port) as connection:
        connection.sendall(post("/short", size))
        assert connection.recv(65536).endswith(b"%d bytes" % size)
        application.begun.clear()
        connection.sendall(post("/long", size))
        assert application.begun.wait(5)
        assert not application.dropped.is_set()
    assert application.dropped.wait(5)


def test_watching_takes_no_task(application, port):
    with connected(port) as connection:
        connection.sendall(post("/short", 10))
        assert connection.recv(65536).endswith(b"10 bytes")
    assert application.tasks
    assert not any("presence" in name or "_look" in name for name in application.tasks)


async def test_reading_goes_on_once_a_body_is_whole(anyio_backend):
    """Who does not read from a connection does not notice its end, either."""
    config = uvicorn.Config(Application(), http=Protocol, log_config=None, lifespan="off")
    config.load()
    protocol = Protocol(config=config, server_state=ServerState(), app_state={})
    transport = Mock(is_closing=lambda: False, get_extra_info=lambda _: None)
    protocol.connection_made(transport)
    size = 2 * READ_AHEAD_BYTES
    head, half = post("/long", size).split(b"\r\n\r\n")[0] + b"\r\n\r\n", bytes(size // 2 + 1)
    protocol.data_received(head)
    await asyncio.sleep(0)  # the application waits for the body
    protocol.data_received(half)
    assert transport.pause_reading.call_count == 1
    protocol.data_received(half[:-2])
    assert transport.resume_reading.call_count == 1
    protocol.data_received(post("/short", 10))  # waits for its turn, and is not read on from
    assert transport.pause_reading.call_count == 2
    assert transport.resume_reading.call_count == 1
    protocol.connection_lost(None)
    await asyncio.wait(protocol.tasks, timeout=5)
    assert not protocol.tasks


async def test_a_client_that_has_gone_already(anyio_backend):
    presence, begun = Presence(), []
    presence.leave()

    async def work() -> None:
        begun.append(True)

    with pytest.raises(ClientDisconnect):
        await while_connected(Request({"type": "http", PRESENCE_KEY: presence}), work())
    assert not begun


async def test_a_cancellation_by_somebody_else_stays_one(anyio_backend):
    presence = Presence()
    waiting = asyncio.create_task(
        while_connected(Request({"type": "http", PRESENCE_KEY: presence}), asyncio.sleep(LONG_S))
    )
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert presence.on_leave is None
