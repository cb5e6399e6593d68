"""After a refusal: what a client still sends is read for a while and no longer. Over a real socket, small limits."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from service.server.linger import LingeringClose
from tests.sockets import connected, everything, listening

MAX_BYTES = 1_000_000
MAX_S = 1.0
SMALL_BYTES = 100_000
SMALL_S = 3.0
# What lies in buffers on the way, of both systems and of the server, when the reader stops.
BUFFERS = 16_000_000


async def refuse(scope, receive, send) -> None:
    """Answers at once, without a look at the body; under `/read` after it."""
    if scope["path"] == "/read":
        while (await receive()).get("more_body"):
            pass
    await send(
        {
            "type": "http.response.start",
            "status": 413 if scope["path"] != "/late" else 408,
            "headers": [(b"content-length", b"7")],
        }
    )
    await send({"type": "http.response.body", "body": b"refused"})


@pytest.fixture(scope="module", params=["httptools", "h11"])
def port(request) -> Iterator[int]:
    limits = {"max_bytes": MAX_BYTES, "max_s": MAX_S, "small_bytes": SMALL_BYTES, "small_s": SMALL_S}
    with listening(LingeringClose(refuse, **limits), http=request.param) as port:
        yield port


def head(path: str = "/", **headers: object) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", *(f"{name.replace('_', '-')}: {v}" for name, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_client_that_finishes_sees_the_answer_and_then_the_end(port):
    with connected(port) as connection:
        connection.sendall(head(Content_Length=900_000) + b"x" * 900_000)
        begun = time.monotonic()
        received = everything(connection)
    assert received.startswith(b"HTTP/1.1 413")
    assert received.lower().count(b"connection: close") == 1
    assert received.endswith(b"refused")
    assert time.monotonic() - begun < MAX_S  # nothing to wait for


def test_the_answer_comes_before_the_rest_of_the_body(port):
    with connected(port) as connection:
        connection.sendall(head(Content_Length=900_000) + b"x")
        received = b""
        while not received.endswith(b"refused"):
            received += connection.recv(65536)
        connection.sendall(b"x" * 899_999)
        assert everything(connection) == b""


@pytest.mark.parametrize("framing", [{"Content_Length": 10**12}, {"Transfer_Encoding": "chunked"}])
def test_a_client_that_never_ends_is_cut_off_by_bytes(port, framing):
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n" if "Transfer_Encoding" in framing else b"x" * 0x10000
    sent = 0
    with connected(port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(head(**framing))
        while sent < 100 * (MAX_BYTES + BUFFERS):
            connection.sendall(chunk)
            sent += len(chunk)
    assert MAX_BYTES <= sent < MAX_BYTES + BUFFERS


def test_a_client_that_dawdles_is_cut_off_by_time(port):
    begun = time.monotonic()
    with connected(port) as connection:
        connection.sendall(head(Content_Length=900_000))
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun < 10 * MAX_S:
                connection.sendall(b"x")
                time.sleep(0.05)
    assert MAX_S <= time.monotonic() - begun < 5 * MAX_S


@pytest.mark.parametrize(
    "request_bytes",
    [head(), head(Content_Length=0), head("/read", Content_Length=9) + b"x" * 9],
    ids=["no body", "empty body", "body that was read"],
)
def test_a_connection_with_nothing_unread_is_kept(port, request_bytes):
    with connected(port) as connection:
        for _ in range(2):
            connection.sendall(request_bytes)
            received = b""
            while not received.endswith(b"refused"):
                part = connection.recv(65536)
                assert part
                received += part
            assert b"connection: close" not in received.lower()


@pytest.mark.parametrize("length", [7_000, SMALL_BYTES])
def test_after_a_small_body_the_connection_is_kept(port, length):
    with connected(port) as connection:
        for _ in range(3):
            connection.sendall(head(Content_Length=length) + b"x" * (length - 1000))
            time.sleep(0.02)  # the rest arrives soon
            connection.sendall(b"x" * 1000)
            received = b""
            while not received.endswith(b"refused"):
                part = connection.recv(65536)
                assert part
                received += part
            assert received.startswith(b"HTTP/1.1 413")
            assert b"connection: close" not in received.lower()


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {"Content_Length": 7_000}),  # which does not come: the answer does all the same
        ("/late", {"Content_Length": 7_000}),
        ("/", {"Content_Length": 7_000, "Expect": "100-continue"}),
        ("/", {"Content_Length": SMALL_BYTES + 1}),
        ("/", {"Transfer_Encoding": "chunked"}),
    ],
    ids=["stalled", "late", "asks first", "large", "unknown length"],
)
def test_a_body_that_is_not_there_does_not_hold_the_answer_up(port, path, headers):
    begun = time.monotonic()
    with connected(port) as connection:
        connection.sendall(head(path, **headers))
        received = b""
        while not received.endswith(b"refused"):
            part = connection.recv(65536)
            assert part
            received += part
        waited = time.monotonic() - begun
    assert received.lower().count(b"connection: close") == 1
    assert b"100 continue" not in received.lower()
    if path == "/" and headers == {"Content_Length": 7_000}:
        assert waited >= SMALL_S
