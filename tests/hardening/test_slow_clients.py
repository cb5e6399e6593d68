"""Clients that are slow, or send headers without end, against a real process: others are answered all the while."""

import contextlib
import json
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.live.service_process import running
from tests.pictures import encode, photo
from tests.sockets import connected, everything
from tests.tiny_zoo import write_zoo

PICTURE = encode(photo(), "JPEG")


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slow")
    with running(write_zoo(folder / "zoo"), folder / "log", "--fallback", "reference") as service:
        yield service
        assert "Traceback" not in service.log.read_text()


def connect(live) -> contextlib.AbstractContextManager[socket.socket]:
    return connected(urlsplit(live.url).port)


def test_two_hundred_clients_that_never_finish_hold_up_nobody(live):
    heads = (
        b"POST /classify HTTP/1.1\r\nHost: x\r\nX-Slow: ",  # headers that do not end
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n\xff\xd8\xff",  # a body that does not
    )
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(live)) for _ in range(200)]
        for number, connection in enumerate(slow):
            connection.sendall(heads[number % 2])
        for _ in range(5):
            for connection in slow[:40]:
                with contextlib.suppress(ConnectionError):  # on a slow machine the time of its headers is over
                    connection.sendall(b"a")
            begun = time.perf_counter()
            response = httpx.post(f"{live.url}/classify", content=PICTURE, timeout=20)
            assert response.status_code == 200
            assert time.perf_counter() - begun < 5


def test_a_body_that_trickles_is_given_up_when_its_time_is_over(live):
    def trickle():
        for start in range(40):
            yield PICTURE[start : start + 1]
            time.sleep(0.05)

    begun = time.perf_counter()
    response = httpx.post(f"{live.url}/classify", content=trickle(), headers={"x-timeout-ms": "300"}, timeout=20)
    assert (response.status_code, response.json()["code"]) == (408, "upload-timeout")
    assert time.perf_counter() - begun < 15


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        (b"X-Long: " + b"a" * 1_000_000 + b"\r\n", 431, "head-too-large"),
        (b"".join(b"X-%d: a\r\n" % number for number in range(50_000)), 431, "head-too-large"),
        (b"X-Request-Id: " + b"i" * 5000 + b"\r\n", 415, "unsupported-image"),
        (b"X-Request-Id: a\x01b\r\n", 400, "malformed-request"),
        (b"Content-Type: multipart/form-data; boundary=" + b"b" * 60_000 + b"\r\n", 400, "malformed-body"),
        (b"Accept: " + b"a/b;q=0.1," * 5000 + b"\r\n", 406, "not-acceptable"),
        (b"Authorization: Bearer " + b"k" * 60_000 + b"\r\n", 415, "unsupported-image"),
    ],
    ids=lambda value: f"{value[:16]!r} {len(value)} bytes" if isinstance(value, bytes) else "",
)
def test_header_abuse_is_the_clients_own_loss(live, headers, status, code):
    with connect(live) as connection:
        connection.sendall(b"POST /depth HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers)
        connection.sendall(b"Content-Length: 5\r\n\r\nhello")
        received = everything(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head[:200]
    assert json.loads(body)["code"] == code
    assert b"i" * 100 not in received
    assert httpx.get(f"{live.url}/healthz", timeout=10).status_code == 200
