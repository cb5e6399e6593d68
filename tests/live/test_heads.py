"""Request lines and headers without end, in bytes or in time: refused, and nobody else waits. Over real sockets."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from service.server.protocol import Protocol, counted_by
from tests.sockets import answer, connected, listening

HEAD_S, CALM_S = 0.5, 2.0
LIMIT = Protocol.head_bytes
BEGUN = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
COMPLETE = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"


COUNTED: list[tuple[str, bool]] = []


class Impatient(counted_by(lambda error, known: COUNTED.append((error.code, known)))):
    head_s = HEAD_S


class Calm(counted_by(lambda error, known: COUNTED.append((error.code, known)))):
    """For tests that must send something before a head's time is over, on a machine with other work."""

    head_s = CALM_S


@pytest.fixture(autouse=True)
def counted() -> list[tuple[str, bool]]:
    """The errors that the protocols say they have answered during a test, and whether the application knows of them."""
    COUNTED.clear()
    return COUNTED


async def app(scope, receive, send) -> None:
    """Answers how many bytes the body had; `/slow` and `/slower` take longer than a head may, the latter a calm one."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    await asyncio.sleep({"/slow": 2.8 * HEAD_S, "/slower": 1.2 * CALM_S}.get(scope["path"], 0))
    body = b"%d bytes" % size
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening(app, http=Impatient, ws="none") as port:
        yield port


@pytest.fixture(scope="module")
def calm_port() -> Iterator[int]:
    with listening(app, http=Calm, ws="none") as port:
        yield port


def check(received: bytes, status: int, code: str) -> None:
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert f"x-request-id: {problem['request_id']}".encode() in head


# ---- bytes -----------------------------------------------------------------------------------------------------------


def test_a_header_of_50_megabytes_holds_up_nobody(service):
    """The parser would take half a minute for it, in the event loop."""
    address = urlsplit(service.url)
    with httpx.Client(base_url=service.url, timeout=60) as probe, connected(address.port) as connection:
        stop, waits = threading.Event(), []

        def look() -> None:
            while not stop.is_set():
                begun = time.perf_counter()
                assert probe.get("/healthz").status_code == 200
                waits.append(time.perf_counter() - begun)
                time.sleep(0.02)

        looking = threading.Thread(target=look)
        looking.start()
        connection.sendall(BEGUN + b"X: ")
        for _ in range(50):
            connection.sendall(b"a" * 1_000_000)
        received = answer(connection)
        stop.set()
        looking.join()
    check(received, 431, "head-too-large")
    assert max(waits) < 2


@pytest.mark.parametrize(
    "endless",
    [BEGUN + b"X: ", BEGUN + b"X", b"GET /", b"\r\n"],
    ids=["value", "name", "request line", "nothing"],
)
@pytest.mark.parametrize("size", [500, 100_000])
def test_what_has_no_end_is_refused(port, endless, size):
    filling = b"\r\n" * (size // 2) if endless == b"\r\n" else b"a" * size
    with connected(port) as connection:
        connection.sendall(endless)
        for _ in range(1_000_000 // size):  # all of it: what comes after the refusal does not hide it
            connection.sendall(filling)
        check(answer(connection), 431, "head-too-large")


def test_many_small_headers_are_too_many(calm_port, counted):
    with connected(calm_port) as connection:
        connection.sendall(BEGUN)
        for first in range(0, 20_000, 100):
            connection.sendall(b"".join(b"X-%d: a\r\n" % number for number in range(first, first + 100)))
        check(answer(connection), 431, "head-too-large")
    assert counted == [("head-too-large", False)]


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 10_000])
def test_a_finished_head_is_refused_by_its_size_and_not_by_how_it_came(port, size):
    with connected(port) as connection:
        connection.sendall(BEGUN + b"X: " + b"a" * size + b"\r\nContent-Length: 5\r\n\r\nhello")
        check(answer(connection), 431, "head-too-large")
        assert connection.recv(1) == b""  # at once, for clients that read to the end


def test_trailers_without_end_are_refused(port, counted):
    with connected(port) as connection:
        connection.sendall(BEGUN + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: ")
        for _ in range(100):
            connection.sendall(b"a" * 10_000)
        check(answer(connection), 431, "head-too-large")
    assert counted == [("head-too-large", True)], "the application counts its request as one whose client left"


def test_a_head_within_the_limit_is_read(port):
    with connected(port) as connection:
        connection.sendall(BEGUN + b"X: " + b"a" * (LIMIT - 1000) + b"\r\nContent-Length: 5\r\n\r\nhello")
        assert answer(connection).endswith(b"5 bytes")


@pytest.mark.parametrize("pieces", [1, 64], ids=["with its head", "in pieces"])
def test_large_bodies_pass(port, pieces):
    body = bytes(8_000_000)
    with connected(port) as connection:
        for _ in range(2):  # what one request had does not count for the next
            data = BEGUN + b"Content-Length: %d\r\n\r\n" % len(body) + body
            step = -(-len(data) // pieces)
            for begin in range(0, len(data), step):
                connection.sendall(data[begin : begin + step])
            assert answer(connection).endswith(b"8000000 bytes")


def test_a_body_of_many_small_chunks_passes(port):
    with connected(port) as connection:
        connection.sendall(BEGUN + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"1\r\nx\r\n" * 100_000 + b"0\r\nX-Trailer: 1\r\n\r\n")
        assert answer(connection).endswith(b"100000 bytes")


# ---- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"G", BEGUN, BEGUN + b"X: a"], ids=["one byte", "line", "header"])
def test_a_head_that_does_not_end_is_given_up(port, counted, begun):
    since = time.monotonic()
    with connected(port) as connection:
        connection.sendall(begun)
        check(answer(connection), 408, "head-timeout")
        assert connection.recv(1) == b""
    assert time.monotonic() - since >= 0.9 * HEAD_S
    assert counted == [("head-timeout", False)]


def test_each_byte_wins_no_time(port):
    since = time.monotonic()
    with connected(port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(BEGUN + b"X: ")
        while time.monotonic() - since < 20 * HEAD_S:
            connection.sendall(b"a")
            time.sleep(HEAD_S / 10)
    assert time.monotonic() - since < 10 * HEAD_S


def test_a_connection_that_waits_has_no_such_limit(port):
    """Neither before its first request nor between two; nor does the body's time count."""
    with connected(port) as connection:
        for _ in range(2):
            time.sleep(2 * HEAD_S)
            connection.sendall(BEGUN + b"Content-Length: 5\r\n\r\nhe")
            time.sleep(2 * HEAD_S)
            connection.sendall(b"llo")
            assert answer(connection).endswith(b"5 bytes")


# ---- upgrades --------------------------------------------------------------------------------------------------------


def test_a_request_to_upgrade_is_answered_like_any_other_and_so_is_the_next(port):
    with connected(port) as connection:
        for _ in range(2):
            connection.sendall(BEGUN + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert answer(connection).endswith(b"0 bytes")


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 5\r\n", b"hello"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 2, 40])
def test_a_request_to_upgrade_keeps_its_body(port, framing, body, pieces):
    """As Java's HttpClient sends it; and what follows in the same packet is read, too."""
    request = BEGUN + H2C + framing + b"\r\n" + body
    with connected(port) as connection:
        both = request + request
        size = -(-len(both) // pieces)
        for start in range(0, len(both), size):
            connection.sendall(both[start : start + size])
            time.sleep(0.001)  # so that they do not arrive as one
        received = b""
        while received.count(b"5 bytes") < 2 and (part := connection.recv(65536)):
            received += part
        assert received.count(b"HTTP/1.1 200 ") == 2
        assert received.count(b"5 bytes") == 2
        connection.sendall(BEGUN + b"Content-Length: 3\r\n\r\nend")
        assert answer(connection).endswith(b"3 bytes")


def test_a_body_after_a_request_to_upgrade_has_its_length(port):
    """Its end is where the head says: what follows is a request of its own, and here none."""
    with connected(port) as connection:
        connection.sendall(BEGUN + H2C + b"Content-Length: 5\r\n\r\nhello, and more\r\n\r\n")
        assert b"\r\n\r\n5 bytes" in answer(connection)


@pytest.mark.parametrize("upgrade", [b"", H2C])
def test_what_follows_a_request_that_closes_is_no_error(port, upgrade):
    """After a request to upgrade as before it: another parser reads the rest."""
    with connected(port) as connection:
        last = b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connection.sendall(BEGUN + upgrade + b"Content-Length: 2\r\n\r\nhi" + last + b"more")
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.count(b"HTTP/1.1 200 ") == 2
    assert b"2 bytes" in received
    assert received.endswith(b"0 bytes")


# ---- no HTTP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"nothing\r\n\r\n",
        BEGUN + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        BEGUN + b"Content-Length: five\r\n\r\nhello",
    ],
)
def test_what_is_no_http_is_told_so(port, sent):
    with connected(port) as connection:
        connection.sendall(sent)
        check(answer(connection), 400, "malformed-request")


def test_what_was_asked_before_no_http_is_answered(port, counted):
    with connected(port) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nnothing\r\n\r\n")
        assert answer(connection).endswith(b"0 bytes")
        assert connection.recv(1) == b""
    assert counted == [], "no error was sent"


def test_what_is_no_http_is_in_the_metrics(service):
    names = (
        'bireal_problems_total{code="malformed-request"}',
        'bireal_http_requests_total{method="other",route="unmatched",status="400"}',
    )

    def figures() -> list[float]:
        lines = [line.rpartition(" ") for line in httpx.get(f"{service.url}/metrics", timeout=30).text.splitlines()]
        return [sum(float(value) for name, _, value in lines if name == each) for each in names]

    before = figures()
    with connected(urlsplit(service.url).port) as connection:
        connection.sendall(b"nothing\r\n\r\n")
        check(answer(connection), 400, "malformed-request")
    assert all(now > then for now, then in zip(figures(), before, strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        BEGUN + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n",
        BEGUN + b"Transfer-Encoding: gzip\r\n\r\nhello",
    ],
)
def test_a_wrong_request_is_refused_in_its_turn(port, counted, wrong):
    with connected(port) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + wrong)
        received = b""
        while part := connection.recv(65536):
            received += part
    first, _, second = received.partition(b"0 bytes")
    assert first.startswith(b"HTTP/1.1 200 ")
    check(second, 400, "malformed-request")
    assert counted == [("malformed-request", False)]


# ---- behind another request ------------------------------------------------------------------------------------------


def test_what_was_asked_before_is_answered(port):
    with connected(port) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + BEGUN + b"X: ")
        for _ in range(20):
            connection.sendall(b"a" * 10_000)
        received = answer(connection)
        assert received.endswith(b"0 bytes")
        assert b"connection: close" in received
        assert connection.recv(1) == b""


def test_whoever_begins_the_next_request_early_has_time_for_it(calm_port):
    with connected(calm_port) as connection:
        connection.sendall(b"GET /slower HTTP/1.1\r\nHost: x\r\n\r\n" + COMPLETE[:10])
        assert answer(connection).endswith(b"0 bytes")
        time.sleep(CALM_S / 10)  # it begins with the answer, although 1.3 x CALM_S since its first byte pass meanwhile
        connection.sendall(COMPLETE[10:])
        assert answer(connection).endswith(b"0 bytes")
