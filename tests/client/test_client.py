"""The client against the real application, and against answers that only a failing one gives."""

import asyncio
import inspect
import io
from contextlib import ExitStack

import httpx
import numpy as np
import pytest

from service.client import (
    AsyncClient,
    Client,
    ProblemError,
    Retry,
    RetryLimitError,
    TransportError,
)
from service.client.retry import retry_after_s
from tests.deploy.traffic import MANY, full_queue
from tests.live.service_process import running
from tests.pictures import encode, photo
from tests.tiny_zoo import DEPTH_SIZE, write_zoo

pytestmark = pytest.mark.anyio
PICTURE = encode(photo(), "JPEG")
EXPERIMENTS = """
experiments:
  - name: half
    task: classify
    mode: split
    state: paused
    baseline: {variant: full}
    candidate: {variant: reference}
"""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    (folder / "experiments.yaml").write_text(EXPERIMENTS)
    options = ("--fallback", "reference", "--queue-size", 2, "--workers", 1, "--max-images-per-request", MANY)
    options += ("--experiments-file", folder / "experiments.yaml")
    with running(write_zoo(folder / "zoo"), folder / "log", *options) as service:
        yield service


@pytest.fixture
def client(live):
    with Client(live.url) as ready:
        yield ready


def test_a_very_long_time_is_one_that_the_service_takes(live):
    with Client(live.url, timeout_s=1e9) as patient:
        assert patient.classify(PICTURE, variant="full").predictions


def test_classes(client, tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(PICTURE)
    by_path = client.classify(path, variant="full", top_k=2)
    by_bytes = client.classify(PICTURE, variant="full", top_k=2)
    assert [each.name for each in by_path.predictions] == [each.name for each in by_bytes.predictions]
    assert by_path.predictions[0].name == "red"  # the fur
    assert by_path.variant == "full"
    assert by_path.model == "tiny-colours"


def test_depth_in_figures_as_a_map_and_as_a_picture(client):
    figures = client.depth(PICTURE, variant="full", fx=100.0)
    assert figures.focal.fx_px == 100
    assert not figures.focal.assumed
    found = client.depth_map(PICTURE, variant="full", fx=100.0)
    assert found.metres.shape == DEPTH_SIZE
    assert found.metres.dtype == np.float32
    assert found.metres.min() == pytest.approx(figures.min_m, abs=1e-3)
    assert found.model == "tiny-ramp"
    assert (found.fx_px, found.fx_source) == (100, "query")
    assert found.valid == (0, 0, DEPTH_SIZE[1], DEPTH_SIZE[0])
    original = client.depth_map(PICTURE, variant="full", size="original")
    assert original.metres.shape == original.picture_size == (300, 451)
    left, top, width, height = original.valid
    assert original.valid == original.region
    assert not np.isnan(original.metres[top : top + height, left : left + width]).any()
    assert np.isnan(original.metres).sum() == 300 * 451 - width * height
    assert original.fx_source == "assumed"
    cloud = client.depth_cloud(PICTURE, variant="full", fx=100.0)
    np.testing.assert_array_equal(cloud.metres[:, 2].reshape(DEPTH_SIZE), found.metres)
    assert cloud.colors.shape == cloud.metres.shape
    assert cloud.colors.dtype == np.uint8
    assert cloud.ply == client.depth_picture(PICTURE, form="ply", variant="full", fx=100.0)
    values = client.depth(PICTURE, variant="full", fx=100.0, values=True).depth_m
    np.testing.assert_allclose(np.array(values), found.metres, atol=6e-4)
    assert client.depth_picture(PICTURE).startswith(b"\x89PNG")


def test_comparisons_models_and_state(client):
    classes = client.compare_classify(PICTURE, top_k=1)
    assert {classes.a.variant, classes.b.variant} == {"binary", "full"} or classes.a.fallback
    depths = client.compare_depth(PICTURE, a="full", b="full")
    assert depths.agree
    assert {model.name for model in client.models().models} >= {"tiny-colours", "tiny-bireal"}
    assert client.health().status == "ok"
    assert client.ready().ready


def test_feedback(client):
    answer = client.classify(PICTURE, variant="full")
    first = client.feedback(answer.feedback_token, "red")
    assert (first.status, first.correct) == ("stored", True)
    assert client.feedback(answer.feedback_token, "red").status == "repeated"
    with pytest.raises(ProblemError) as raised:
        client.feedback(answer.feedback_token, "blue")
    assert raised.value.status == 409


def test_feedback_on_depth(client, tmp_path):
    found = client.depth_map(PICTURE, model="tiny-ramp", size="original")
    truth = np.nan_to_num(2 * found.metres, nan=0.0)
    told = client.feedback_depth(found.feedback_token, PICTURE, truth)
    assert (told.status, told.abs_rel) == ("stored", pytest.approx(0.5, abs=1e-3))
    np.save(tmp_path / "truth.npy", truth.astype(np.float32))
    assert client.feedback_depth(found.feedback_token, PICTURE, tmp_path / "truth.npy").status == "repeated"
    with pytest.raises(TypeError, match="uint16; it must be floats, in metres"):
        client.feedback_depth(found.feedback_token, PICTURE, (256 * truth).astype(np.uint16))


def test_experiments(client):
    (known,) = client.experiments().experiments
    assert (known.name, known.state, [arm.variant for arm in known.arms]) == ("half", "paused", ["full", "reference"])
    assert client.experiment("half").verdict == known.verdict
    with pytest.raises(ProblemError) as raised:
        client.experiment("half/a#b")
    assert raised.value.code in {"unknown-experiment", "not-found"}


async def test_open_files_are_images_too(live, client, tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(PICTURE)
    expected = client.classify(PICTURE, variant="full").predictions
    with path.open("rb") as file:
        assert client.classify(file, variant="full").predictions == expected
    assert client.classify(io.BytesIO(PICTURE), variant="full").predictions == expected
    assert client.classify(bytearray(PICTURE), variant="full").predictions == expected
    async with AsyncClient(live.url) as waiting:
        assert (await waiting.classify(io.BytesIO(PICTURE), variant="full")).predictions == expected


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (photo(), "Image is not an image file: pass the file's bytes, its path"),
        ([1, 2], "list is not an image file"),
        (5, "int is not an image file"),
        (None, "NoneType is not an image file"),
        (io.StringIO("text"), "open as text; open it with mode 'rb'"),
    ],
    ids=["decoded", "list", "number", "none", "text"],
)
def test_what_is_no_image_is_told_with_what_is(image, says):
    with Client("http://127.0.0.1:9") as nobody, pytest.raises(TypeError, match=says):
        nobody.classify(image)


def test_a_refusal_carries_the_problem_document(client):
    with pytest.raises(ProblemError) as raised:
        client.classify(b"no picture")
    error = raised.value
    assert (error.status, error.code) == (415, "unsupported-image")
    assert error.request_id
    assert error.problem.detail in str(error)
    assert error.problem.help in str(error)


async def test_a_full_queue_is_waited_for(live):
    """Eight at once on a queue of two: 429 with Retry-After in between, and every one is answered."""
    refused = asyncio.Event()

    async def look(response: httpx.Response) -> None:
        if response.status_code == 429:
            refused.set()

    async with AsyncClient(live.url, retry=Retry(tries=100, first_s=0.5, longest_s=60)) as client:
        client._http.event_hooks["response"].append(look)
        for _ in range(20):  # the service learns what a run takes, or it would send everybody away for a minute
            await client.depth(PICTURE, variant="binary")
        while not refused.is_set():  # as long as what fills the queue was done before anybody asked
            with ExitStack() as stack:
                await asyncio.to_thread(stack.enter_context, full_queue(live.url, 500))
                answers = asyncio.gather(*(client.depth(PICTURE, variant="binary") for _ in range(8)))
                told = asyncio.create_task(refused.wait())
                await asyncio.wait([answers, told], return_when=asyncio.FIRST_COMPLETED)
                told.cancel()
            assert [answer.model for answer in await answers] == ["tiny-bireal-depth"] * 8


def answering(*responses, retry: Retry | None = None):
    """A client whose service gives these answers, one after the other; exceptions are raised."""
    waiting = list(responses)

    def handle(request: httpx.Request) -> httpx.Response:
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = Client("http://service", retry=retry or Retry(first_s=0.001), transport=httpx.MockTransport(handle))
    client.waiting = waiting
    return client


HEALTHY = httpx.Response(200, json={"status": "ok", "version": "1"})
PROBLEM = {
    "type": "/problems/overloaded",
    "title": "t",
    "status": 429,
    "detail": "d",
    "code": "overloaded",
    "help": "h",
}


@pytest.mark.parametrize(
    "failure",
    [
        httpx.Response(429, json=PROBLEM, headers={"retry-after": "0"}),
        httpx.Response(503, json=PROBLEM),
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError("broke off"),
    ],
)
def test_tried_again_where_it_is_safe(failure):
    with answering(failure, HEALTHY) as client:
        assert client.health().status == "ok"
        assert client.waiting == []


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (httpx.Response(429, json=PROBLEM, headers={"retry-after": "60"}), ProblemError),  # longer than longest_s
        (httpx.Response(422, json=PROBLEM), ProblemError),
        (httpx.Response(500, json=PROBLEM), ProblemError),
        (httpx.ReadTimeout("slow"), TransportError),
        (httpx.Response(502, text="<html>bad gateway</html>"), TransportError),
        (httpx.Response(200, text="<html>somebody else</html>"), TransportError),
    ],
)
def test_not_tried_again_where_it_is_not(failure, raised):
    with answering(failure, HEALTHY) as client:
        with pytest.raises(raised) as caught:
            client.health()
        assert client.waiting == [HEALTHY]
    if failure.__class__ is httpx.Response and failure.status_code == 429:
        assert caught.value.retry_after_s == 60


DEPTH_HEADERS = {
    "x-bireal-picture": "width=8, height=6",
    "x-bireal-focal": "fx_px=100.0, fx_source=query",
    "x-bireal-valid": "left=0, top=0, width=4, height=3",
    "x-bireal-region": "left=0, top=0, width=8, height=6",
    "x-bireal-model": "m",
    "x-bireal-version": "1",
    "x-bireal-variant": "full",
    "x-bireal-kernel": "onnxruntime",
    "x-request-id": "r",
}
PLY = b"ply\nformat binary_little_endian 1.0\nelement vertex\nproperty float x\nproperty float y\nproperty float z\n"
PLY += b"property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"


@pytest.mark.parametrize(
    ("ask", "body"),
    [
        (Client.depth_map, b""),
        (Client.depth_map, b"\x93NUMPY"),
        (Client.depth_map, b"PK\x03\x04 an archive, which NumPy would open"),
        (Client.depth_map, b"<html>somebody else</html>"),
        (Client.depth_cloud, b""),
        (Client.depth_cloud, PLY),
    ],
)
def test_a_file_that_is_none_is_an_error_of_the_transport(ask, body):
    answer = httpx.Response(200, content=body, headers=DEPTH_HEADERS)
    with answering(answer) as client, pytest.raises(TransportError, match=r"http://service/depth.* cannot be parsed"):
        ask(client, PICTURE)


@pytest.mark.parametrize("status", [200, 302])
def test_a_login_page_in_front_of_the_service_is_no_picture(status):
    page = httpx.Response(status, text="<html>log in</html>", headers={"location": "https://login.example"})
    with answering(page) as client, pytest.raises(TransportError, match="not the service"):
        client.depth_picture(PICTURE)


def test_it_ends_after_the_last_try():
    with answering(*[httpx.ConnectError("refused")] * 3, retry=Retry(tries=3, first_s=0.001)) as client:
        with pytest.raises(RetryLimitError, match=r"3 tries \(ConnectError: refused\)") as caught:
            client.health()
        assert isinstance(caught.value.__cause__, httpx.ConnectError)


async def test_a_call_waits_for_a_free_connection_as_long_as_it_takes():
    """Of a thousand calls at once, the last ones wait for all others; they did not time out, they have not begun."""
    limits = []

    def handle(request: httpx.Request) -> httpx.Response:
        limits.append(request.extensions["timeout"])
        return httpx.Response(200, content=HEALTHY.content)

    transport = httpx.MockTransport(handle)
    with Client("http://service", timeout_s=3, transport=transport) as client:
        client.health()
    async with AsyncClient("http://service", timeout_s=3, transport=transport) as client:
        await client.health()
    assert limits == [{"connect": 3, "write": 3, "read": 3, "pool": None}] * 2


def test_a_newer_service_is_understood():
    body = {"status": "ok", "version": "2", "new": {"deep": 1}}
    with answering(httpx.Response(200, json=body)) as client:
        assert client.health().version == "2"


def test_retry_after_is_never_undercut():
    retry = Retry(tries=5, first_s=0.1, longest_s=10)
    assert all(2 <= (retry.wait_s(1, 2.0) or 0) <= 2.1 for _ in range(100))
    assert all(0.2 <= (retry.wait_s(3, None) or 0) <= 0.4 for _ in range(100))
    assert retry.wait_s(5, None) is None
    assert retry.wait_s(1, 11.0) is None
    assert 5 <= (Retry(tries=10_000).wait_s(5000, None) or 0) <= 10, "a night's patience"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("soon", None),
        ("-1", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("", None),
        ("Wed, 21 Oct 99999999999 07:28:00 GMT", None),
    ],
)
def test_retry_after_headers(header, seconds):
    assert retry_after_s(header) == seconds


def _interface(client: type) -> dict[str, str]:
    """Signatures of a client's public methods, by name, and that of its making."""
    methods = inspect.getmembers(client, inspect.isfunction)
    found = {name: str(inspect.signature(method)) for name, method in methods if not name.startswith("_")}
    return found | {"": str(inspect.signature(client)).replace("AsyncBaseTransport", "BaseTransport")}


def test_both_clients_take_and_give_the_same():
    asynchronous = _interface(AsyncClient)
    asynchronous["close"] = asynchronous.pop("aclose")
    assert _interface(Client) == asynchronous
