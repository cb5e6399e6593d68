"""A server in a thread, and raw connections to it."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn


@contextlib.contextmanager
def listening(app: Any, **options: Any) -> Iterator[int]:
    """The port of an ASGI application under uvicorn, with these options of its configuration."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", **options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        yield connection


def answer(connection: socket.socket) -> bytes:
    """What comes until a whole answer is there, or the server closes."""
    received = b""
    while b"\r\n\r\n" not in received and (part := connection.recv(65536)):
        received += part
    length = int(received.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
    while len(received.partition(b"\r\n\r\n")[2]) < length and (part := connection.recv(65536)):
        received += part
    return received


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received
