"""Everything that clients get wrong, over a real socket: each is answered with its status and a sentence that helps."""

import contextlib
import http.client
import json
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.pictures import encode, photo, png, repeated_scans
from tests.sockets import answer, connected, everything
from tests.waiting import wait

JPEG = encode(photo(), "JPEG", quality=80)
PNG = encode(photo(), "PNG")


def animated() -> bytes:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue", "white")]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=10)


def palette_with_alpha() -> bytes:
    image = photo().convert("RGBA")
    image.putalpha(128)
    return encode(image.quantize(16), "PNG")


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG that says its size, and ends there."""
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xda\x00\x02\xff\xd9"


# ---- pictures that are odd and readable ------------------------------------------------------------------------------

READABLE = {
    "1x1": (encode(Image.new("RGB", (1, 1), "red"), "PNG"), {"width": 1, "height": 1}),
    "1x3000": (encode(Image.new("RGB", (1, 3000), "red"), "PNG"), {"width": 1, "height": 3000}),
    "3000x1": (encode(Image.new("RGB", (3000, 1), "red"), "PNG"), {"width": 3000, "height": 1}),
    "cmyk": (encode(photo().convert("CMYK"), "JPEG"), {"mode": "CMYK"}),
    "grey": (encode(photo().convert("L"), "JPEG"), {"mode": "L"}),
    "16-bit grey png": (encode(Image.fromarray(np.full((20, 20), 40000, np.uint16)), "PNG"), {"format": "PNG"}),
    "16-bit colour png": (png(2, 1, 16, 2, b"\0" + b"\x80\x00" * 6), {"format": "PNG", "width": 2}),
    "palette with alpha": (palette_with_alpha(), {"mode": "P"}),
    "alpha": (encode(photo().convert("RGBA"), "PNG"), {"mode": "RGBA"}),
    "black and white": (encode(photo().convert("1"), "PNG"), {"mode": "1"}),
    "animated gif": (animated(), {"format": "GIF", "frames_dropped": 3}),
    "bmp": (encode(photo(), "BMP"), {"format": "BMP"}),
    "webp": (encode(photo(), "WEBP"), {"format": "WEBP"}),
    "jpeg called png": (JPEG, {"format": "JPEG"}),
    "bytes after the end": (JPEG + b"trailing" * 100, {"format": "JPEG"}),
}


@pytest.mark.parametrize(
    "target", ["/classify?model=none", "/classify?top_k=0", "/classify?topk=3", "/v2/models/none/infer"]
)
def test_a_refusal_of_a_small_body_keeps_the_connection(service, target):
    address = urlsplit(service.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", target, body=JPEG)
        response = connection.getresponse()
        assert response.status in (404, 422), response.read()
        assert response.headers["connection"] is None
        response.read()
        used = connection.sock
        connection.request("POST", "/classify", body=JPEG)
        assert connection.getresponse().status == 200
        assert connection.sock is used


@pytest.mark.parametrize("path", ["/classify", "/depth"])
@pytest.mark.parametrize("name", READABLE)
def test_odd_pictures_are_answered(client, name, path):
    data, report = READABLE[name]
    response = client.post(path, content=data, headers={"content-type": "image/png"})
    assert response.status_code == 200, response.text
    image = response.json()["image"]
    assert {key: image[key] for key in report} == report


# ---- bodies that are refused -----------------------------------------------------------------------------------------

BODIES = {
    "empty": (b"", 400, "empty-body"),
    "text": (b"this is not a picture", 415, "unsupported-image"),
    "html": (b"<!doctype html><html></html>", 415, "unsupported-image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "unsupported-image"),
    "pdf": (b"%PDF-1.7\n" + b"\0" * 100, 415, "unsupported-image"),
    "zip": (b"PK\x03\x04" + b"\0" * 100, 415, "unsupported-image"),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 100, 415, "unsupported-image"),
    "tiff": (encode(photo(), "TIFF"), 415, "unsupported-image"),
    "ico": (encode(photo(), "ICO"), 415, "unsupported-image"),
    "ppm": (encode(photo(), "PPM"), 415, "unsupported-image"),
    "zeros": (b"\0" * 1000, 415, "unsupported-image"),
    "one byte": (b"\xff", 415, "unsupported-image"),
    "json": (b'{"image": "aGVsbG8="}', 415, "unsupported-image"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], 422, "broken-image"),
    "jpeg header only": (JPEG[:20], 422, "broken-image"),
    "truncated png": (PNG[: len(PNG) // 2], 422, "broken-image"),
    "png signature only": (PNG[:8], 422, "broken-image"),
    "truncated gif": (animated()[:20], 422, "broken-image"),
    "truncated webp": (encode(photo(), "WEBP")[:200], 422, "broken-image"),
    "png of 20000x20000": (png(20000, 20000, 8, 2, b""), 413, "image-too-large"),
    "jpeg of 20000x20000": (jpeg_header(20000, 20000), 413, "image-too-large"),
    "png of the largest size": (png(2**31 - 1, 2**31 - 1, 8, 2, b""), 413, "image-too-large"),
    "jpeg of 1000 scans": (repeated_scans(photo(), 1000), 413, "image-too-complex"),
    "50 MB": (b"\xff" * 50_000_000, 413, "body-too-large"),
}


def check(response, status: int, code: str) -> None:
    """A problem document that says what, and what to do about it."""
    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    for member in ("title", "detail", "help"):
        assert len(problem[member]) > 10
        assert problem[member].endswith((".", ")"))
    assert "Traceback" not in response.text


@pytest.fixture(autouse=True)
def alive(client) -> Iterator[None]:
    """After whatever a test did, the service answers."""
    yield
    assert client.post("/classify?variant=full", content=PNG).status_code == 200


@pytest.mark.parametrize("path", ["/classify", "/depth", "/compare/classify?a=full"])
@pytest.mark.parametrize("name", BODIES)
def test_bodies(client, name, path):
    data, status, code = BODIES[name]
    check(client.post(path, content=data, headers={"content-type": "image/jpeg"}), status, code)


@pytest.mark.parametrize("name", [name for name in BODIES if name not in ("50 MB", "empty")])
def test_the_same_in_a_form_beside_a_good_one(client, name):
    data, status, code = BODIES[name]
    files = [("file", ("good.jpg", JPEG, "image/jpeg")), ("file", ("bad.jpg", data, "image/jpeg"))]
    response = client.post("/classify", files=files)
    assert response.status_code == 200
    good, bad = response.json()["results"]
    assert good["predictions"]
    assert (bad["status"], bad["code"]) == (status, code)


def test_50_megabytes_of_unknown_length(client):
    def chunks() -> Iterator[bytes]:
        for _ in range(50):
            yield b"\xff" * 1_000_000

    check(client.post("/classify", content=chunks()), 413, "body-too-large")


@pytest.mark.parametrize("content_type", ["text/plain", "video/mp4", "application/pdf"])
def test_a_picture_declared_as_something_else(client, content_type):
    check(client.post("/classify", content=JPEG, headers={"content-type": content_type}), 415, "unsupported-image")


def test_a_picture_declared_as_json(client):
    check(client.post("/classify", content=JPEG, headers={"content-type": "application/json"}), 400, "malformed-body")


# ---- forms -----------------------------------------------------------------------------------------------------------

FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", FORM, 400, "empty-body"),
        (b"no form at all", FORM, 400, "malformed-body"),
        (b"--x--\r\n", FORM, 400, "empty-body"),
        (b"--x\r\n\r\nno name\r\n--x--\r\n", FORM, 400, "malformed-body"),
        (JPEG, {"content-type": "multipart/form-data"}, 400, "malformed-body"),
        (JPEG, {"content-type": "multipart/form-data; boundary="}, 400, "malformed-body"),
        (b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\ntext\r\n--x--\r\n", FORM, 422, "bad-parameter"),
        (b'--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n--x--\r\n', FORM, 422, "bad-parameter"),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\r\n--x--\r\n',
            FORM,
            400,
            "empty-body",
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, bytes) else None,
)
def test_forms(client, body, headers, status, code):
    check(client.post("/classify", content=body, headers=headers), status, code)


def test_a_form_that_is_cut_short(client):
    begun = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + JPEG[:500]
    response = client.post("/classify", content=begun, headers=FORM)
    assert response.status_code in (400, 422)
    check(response, response.status_code, response.json()["code"])


def test_too_many_images(client):
    files = [("file", (f"{i}.jpg", JPEG, "image/jpeg")) for i in range(17)]
    check(client.post("/classify", files=files), 413, "too-many-images")
    assert client.post("/classify", files=files[:16]).json()["count"] == 16


def test_another_name_for_the_file(client):
    response = client.post("/classify", files={"picture": ("a.jpg", JPEG, "image/jpeg")})
    check(response, 422, "bad-parameter")
    assert "`file`" in response.json()["help"]


# ---- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "status", "code", "named"),
    [
        ("/classify?model=unknown", 404, "unknown-model", "tiny-bireal"),
        ("/classify?model=../../etc/passwd", 404, "unknown-model", "tiny-bireal"),
        ("/classify?model=", 404, "unknown-model", "tiny-bireal"),
        ("/classify?model=tiny-ramp", 404, "unknown-model", "tiny-bireal"),
        ("/depth?model=tiny-colours", 404, "unknown-model", "tiny-ramp"),
        ("/classify?variant=ternary", 404, "unknown-variant", "reference"),
        ("/classify?variant=BINARY", 404, "unknown-variant", "binary"),
        ("/classify?model=tiny-colours&variant=binary", 422, "variant-not-served", "tiny-bireal"),
        ("/classify?top_k=0", 422, "bad-parameter", "top_k"),
        ("/classify?top_k=-1", 422, "bad-parameter", "top_k"),
        ("/classify?top_k=many", 422, "bad-parameter", "top_k"),
        ("/classify?top_k=1.5", 422, "bad-parameter", "top_k"),
        ("/classify?top_k=99999999999999999999", 422, "bad-parameter", "top_k"),
        ("/classify?topk=3", 422, "bad-parameter", "topk"),
        ("/classify?min_probability=2", 422, "bad-parameter", "min_probability"),
        ("/classify?min_probability=nan", 422, "bad-parameter", "min_probability"),
        ("/depth?format=gif", 422, "bad-parameter", "format"),
        ("/depth?size=huge", 422, "bad-parameter", "size"),
        ("/depth?fx=0", 422, "bad-parameter", "fx"),
        ("/depth?fx=-5", 422, "bad-parameter", "fx"),
        ("/depth?fx=nan", 422, "bad-parameter", "fx"),
        ("/depth?fx=inf", 422, "bad-parameter", "fx"),
        ("/depth?fx=1e300", 422, "bad-parameter", "fx"),
        ("/depth?top_k=3", 422, "bad-parameter", "top_k"),
        ("/compare/depth?a=x", 404, "unknown-variant", "reference"),
    ],
)
def test_parameters(client, url, status, code, named):
    response = client.post(url, content=JPEG)
    check(response, status, code)
    problem = response.json()
    assert named in f"{problem['detail']} {problem['help']} {problem.get('parameter')}"


def test_a_format_that_nobody_makes(client):
    response = client.post("/depth", content=JPEG, headers={"accept": "text/html"})
    check(response, 406, "not-acceptable")
    assert "image/png" in response.json()["help"]


def test_several_maps_in_one_file(client):
    files = [("file", (f"{i}.jpg", JPEG, "image/jpeg")) for i in range(2)]
    check(client.post("/depth?format=png16", files=files), 422, "bad-parameter")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/classify", 405, "method-not-allowed"),
        ("PUT", "/depth", 405, "method-not-allowed"),
        ("POST", "/metrics", 405, "method-not-allowed"),
        ("DELETE", "/classify", 405, "method-not-allowed"),
        ("GET", "/nothing", 404, "not-found"),
        ("POST", "/classify/", 404, "not-found"),
        ("GET", "/models/../../etc/passwd", 404, "not-found"),
    ],
)
def test_paths_and_methods(client, method, path, status, code):
    check(client.request(method, path, content=JPEG), status, code)


# ---- below HTTP ------------------------------------------------------------------------------------------------------


def raw(service, data: bytes, read: Callable[[socket.socket], bytes] = everything) -> bytes:
    """Sends bytes as they are, and returns what comes back until the service closes, or as `read` reads it."""
    with connected(urlsplit(service.url).port) as connection:
        connection.sendall(data)
        return read(connection)


def test_a_client_that_leaves_in_the_middle_of_its_upload_is_forgotten(service, client):
    for _ in range(20):
        begun = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + JPEG[:1000]
        raw(service, begun, lambda connection: b"")
    wait(lambda: "bireal_in_flight 1.0\n" in client.get("/metrics").text)  # the one that asks
    assert client.post("/classify", content=JPEG).status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW /classify HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nbad header\r\n\r\n",
    ],
    ids=lambda data: repr(data)[:50],
)
def test_what_is_not_http(service, data):
    head, _, body = raw(service, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), head
    assert json.loads(body)["code"] == "malformed-request"


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_a_request_to_upgrade_is_an_ordinary_get(service, protocol):
    received = raw(
        service,
        b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: %b\r\nX-Request-Id: up-%b\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        % (protocol.encode(), protocol.encode()),
    )
    assert received.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert received.count(b"HTTP/1.1") == 1
    assert [record["status"] for record in service.logged(f"up-{protocol}")] == [404]
    assert "upgrade" not in service.log.read_text().lower()


def test_a_large_upload_is_refused_without_being_asked_for(service):
    """With `Expect: 100-continue` a client waits for leave to send: it gets the refusal instead."""
    begun = time.monotonic()
    received = raw(
        service,
        b"POST /classify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n"
        b"Content-Length: 50000000\r\n\r\n",
        answer,  # the service waits for a body that may be on its way, before it closes
    )
    assert received.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in received
    assert time.monotonic() - begun < 5


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "options",
    [
        ["--data-binary", "@{}"],
        ["--data-binary", "@{}", "-H", "Expect:"],
        ["-F", "file=@{}"],
        ["-F", "file=@{}", "-H", "Expect:"],
        ["--data-binary", "@{}", "-H", "Transfer-Encoding: chunked", "-H", "Expect:"],
    ],
    ids=["body", "body at once", "form", "form at once", "chunks"],
)
@pytest.mark.parametrize("megabytes", [25, 150])
def test_curl_sees_why_its_upload_is_refused(service, tmp_path, options, megabytes):
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(megabytes * 1_000_000)
    arguments = [option.format(large) for option in options]
    command = ["curl", "-sS", "-m", "30", "-w", "\n%{http_code}", *arguments, f"{service.url}/classify"]
    ended = subprocess.run(command, capture_output=True, text=True)
    document, _, status = ended.stdout.rpartition("\n")
    assert status == "413", ended.stderr
    assert json.loads(document)["code"] == "body-too-large"


def test_an_upload_without_end_is_cut_off(service):
    address = urlsplit(service.url)
    sent = 0
    with (
        socket.create_connection((address.hostname, address.port), timeout=15) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 99000000000\r\n\r\n")
        while sent < 1_000_000_000:
            connection.sendall(b"x" * 1_000_000)
            sent += 1_000_000
    assert 60_000_000 < sent < 200_000_000
