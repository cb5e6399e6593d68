"""The Open Inference Protocol on the wire: what clients that are not Triton's or KServe's may send, right and wrong."""

import base64
import gzip
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from tests.api.conftest import metric, running
from tests.pictures import encode, photo
from tests.tiny_zoo import CLASSIFY_SIZE

pytestmark = pytest.mark.anyio

JPEG = encode(photo(), "JPEG")
SHAPE = [1, *CLASSIFY_SIZE, 3]
GREY = np.full(SHAPE, 128, np.uint8)
URL = "/v2/models/tiny-colours/infer"
BINARY = "inference-header-content-length"


def request(tensor: dict, **more) -> bytes:
    return json.dumps({"inputs": [tensor], **more}).encode()


def pixels(**changes) -> dict:
    tensor = {"name": "image", "shape": SHAPE, "datatype": "UINT8", "data": GREY.ravel().tolist()}
    return {name: value for name, value in (tensor | changes).items() if value is not ...}


def with_tail(tensor: dict, tail: bytes, **more) -> tuple[bytes, dict[str, str]]:
    head = request(tensor, **more)
    return head + tail, {BINARY: str(len(head))}


async def test_health(client):
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    assert (await client.get("/v2/health/ready")).json() == {"ready": True}
    assert (await client.get("/v2/models/tiny-colours/versions/1/ready")).json() == {
        "name": "tiny-colours",
        "ready": True,
    }


async def test_not_ready_is_said_in_json(zoo, tmp_path):
    async with running(tmp_path) as client:
        refused = await client.get("/v2/health/ready")
        assert (refused.status_code, refused.json()) == (503, {"ready": False})
        assert (await client.get("/v2/health/live")).json() == {"live": True}


@pytest.mark.parametrize("data", [GREY.tolist(), GREY.ravel().tolist(), GREY[0].tolist()])
async def test_pixels_nested_or_flat(client, data):
    answered = await client.post(URL, content=request(pixels(data=data), id="my-id"))
    assert answered.status_code == 200, answered.text
    document = answered.json()
    assert document["id"] == answered.headers["x-request-id"] == "my-id"
    assert [output["name"] for output in document["outputs"]] == ["logits", "probabilities", "label"]
    logits = document["outputs"][0]
    assert (logits["datatype"], logits["shape"]) == ("FP32", [1, 3])
    assert logits["data"] == pytest.approx([128 * 10 / 255] * 3, rel=1e-5)
    assert answered.headers["x-bireal-model"] == "tiny-colours"
    assert "inference;dur=" in answered.headers["server-timing"]


async def test_files_as_base64(client):
    text = base64.b64encode(JPEG).decode()
    for shape, data in (([2], [text, text]), ([2, 1], [[text], [text]])):
        tensor = {"name": "encoded_image", "shape": shape, "datatype": "BYTES", "data": data}
        answered = await client.post(URL, content=request(tensor))
        assert answered.status_code == 200, answered.text
        assert answered.json()["outputs"][2]["shape"] == [2]


async def test_what_clients_send_by_themselves_is_taken(client):
    """The parameters of tritonclient 2.69, whether asked for or not, and of MLServer's codecs."""
    body, headers = with_tail(
        pixels(data=..., parameters={"binary_data_size": GREY.size, "content_type": "np"}),
        GREY.tobytes(),
        outputs=[{"name": "logits", "parameters": {"classification": 1, "binary_data": False}}],
        parameters={"binary_data_output": True, "timeout": 30_000_000},
    )
    answered = await client.post(URL, content=body, headers=headers)
    assert answered.status_code == 200, answered.text
    assert answered.json()["outputs"][0]["shape"] == [1, 1]


@pytest.mark.parametrize("microseconds", [0, 10**9, 10**400], ids=["none", "1000 s", "too large for a float"])
async def test_a_timeout_beyond_the_services_own_is_none(client, microseconds):
    answered = await client.post(URL, content=request(pixels(), parameters={"timeout": microseconds}))
    assert answered.status_code == 200, answered.text


async def test_binary_both_ways(client):
    body, headers = with_tail(
        pixels(data=..., parameters={"binary_data_size": GREY.size}),
        GREY.tobytes(),
        parameters={"binary_data_output": True},
    )
    answered = await client.post(URL, content=body, headers=headers)
    length = int(answered.headers[BINARY])
    document, tail = json.loads(answered.content[:length]), answered.content[length:]
    sizes = [output["parameters"]["binary_data_size"] for output in document["outputs"]]
    assert sum(sizes) == len(tail)
    np.testing.assert_allclose(np.frombuffer(tail[: sizes[0]], "<f4"), [128 * 10 / 255] * 3, rtol=1e-5)
    (size,) = struct.unpack_from("<I", tail, sizes[0] + sizes[1])
    assert tail[-size:] == b"red", "of equal ones the first"


def gzipped(data: bytes) -> bytes:
    """The same bytes at any time: they are part of a test's name, of which all processes of a run need the same."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP", "identity", ""])
async def test_compressed(client, encoding):
    compress = {"gzip": gzipped, "deflate": zlib.compress}.get(encoding.lower(), bytes)
    answered = await client.post(URL, content=compress(request(pixels())), headers={"content-encoding": encoding})
    assert answered.status_code == 200, answered.text


@pytest.mark.parametrize(
    ("body", "encoding", "status", "says"),
    [
        (gzipped(b" " * 30_000_000), "gzip", 413, "limit for a body is 20000000"),
        (zlib.compress(b" " * 30_000_000), "deflate", 413, "limit for a body is 20000000"),
        (gzipped(b"{}")[:-4], "gzip", 400, "ends too early"),
        (gzipped(b"{}") + b"x", "gzip", 400, "more data after its end"),
        (b"{}", "gzip", 400, "cannot be decompressed"),
        (b"{}", "br", 415, "encoded as 'br'"),
        (b"{}", "gzip, gzip", 415, "gzip, gzip"),
    ],
)
async def test_compression_that_is_refused(client, body, encoding, status, says):
    refused = await client.post(URL, content=body, headers={"content-encoding": encoding})
    assert refused.status_code == status
    assert says in refused.json()["error"]


ELEMENT = struct.pack("<I", len(JPEG)) + JPEG
FILE = {"name": "encoded_image", "shape": [1], "datatype": "BYTES"}
SIZE = {"binary_data_size": len(ELEMENT)}


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"", {}, 400, "empty"),
        (b"no json", {}, 400, "JSON"),
        (b"[1]", {}, 400, "object"),
        (b"{}", {}, 400, "inputs: Field required"),
        (b'{"inputs": []}', {}, 400, "at least 1 item"),
        (b"[" * 100_000, {}, 400, "JSON"),
        (b'{"inputs": "x"}', {}, 400, "valid array"),
        (request(pixels(), parameters={"variant": 1}), {}, 400, "variant is not a text"),
        (request(pixels(), parameters={"timeout": -1}), {}, 400, "timeout"),
        (request(pixels(), parameters={"timeout": 1e9}), {}, 400, "timeout"),
        (request(pixels(), parameters={"binary_data_output": 1}), {}, 400, "neither true nor false"),
        (request(pixels(), outputs=[{"name": "label"}, {"name": "label"}]), {}, 400, "requested twice"),
        (
            request(pixels(), outputs=[{"name": "label", "parameters": {"classification": 1}}]),
            {},
            400,
            "has no classes",
        ),
        (
            request(pixels(), outputs=[{"name": "logits", "parameters": {"classification": -1}}]),
            {},
            400,
            "not a whole number",
        ),
        (
            request(pixels(), outputs=[{"name": "logits", "parameters": {"clasification": 3}}]),
            {},
            400,
            "no parameter 'clasification' of the output logits. Known parameters: binary_data, classification.",
        ),
        (
            request(pixels(), outputs=[{"name": "logits", "parameters": {"shared_memory_region": "x"}}]),
            {},
            400,
            "Shared memory",
        ),
        (
            request(pixels(parameters={"binary_data_sizes": 3})),
            {},
            400,
            "no parameter 'binary_data_sizes' of the input image. Known parameters: binary_data_size, content_type.",
        ),
        (request(pixels(), parameters={"Variant": "full"}), {}, 400, "no parameter 'Variant' of a request"),
        (request(pixels(data=[256] * GREY.size)), {}, 400, "within 0 .. 255"),
        (request(pixels(data=[-1] * GREY.size)), {}, 400, "within 0 .. 255"),
        (request(pixels(data=[0.5] * GREY.size)), {}, 400, "whole numbers"),
        (request(pixels(data=[True] * GREY.size)), {}, 400, "whole numbers"),
        (request(pixels(data=["1"] * GREY.size)), {}, 400, "whole numbers"),
        (request(pixels(data=[[1], [1, 2]])), {}, 400, "whole numbers"),
        (request(pixels(data=[10**30] * GREY.size)), {}, 400, "within 0 .. 255"),
        (request(pixels(data=[1] * (GREY.size - 1) + [True])), {}, 400, "whole numbers"),
        (request(pixels(data=[1] * (GREY.size - 1) + [[1]])), {}, 400, "whole numbers"),
        (request(pixels(data=[1] * (GREY.size + 1))), {}, 400, "whole numbers"),
        (request(pixels(data=[[]] * GREY.size)), {}, 400, "whole numbers"),
        (request(pixels(data=[[1] * (GREY.size - 1), [1]])), {}, 400, "whole numbers"),
        (request(pixels(data={"0": 1})), {}, 400, "whole numbers"),
        (request(pixels(data=7)), {}, 400, "whole numbers"),
        (request(pixels(data=[])), {}, 400, "whole numbers"),
        (request(pixels(data=...)), {}, 400, "has no data"),
        (request(pixels(shape=[-1, 32, 32, 3])), {}, 400, "greater than or equal to 0"),
        (request(pixels(shape=[0, 32, 32, 3], data=[])), {}, 400, "N >= 1"),
        (request(pixels(shape=[1.5, 32, 32, 3])), {}, 400, "integer"),
        (request(pixels(shape=[32, 32, 3])), {}, 400, "accepts [N, 32, 32, 3]"),
        (request(pixels(shape=[17, 32, 32, 3])), {}, 413, "may carry 16 images; this one has 17"),
        (request(pixels(parameters={"shared_memory_region": "x"}, data=...)), {}, 400, "Shared memory"),
        (request(pixels(parameters={"binary_data_size": GREY.size})), {}, 400, "both"),
        (request({**FILE, "data": ["not base64!"]}), {}, 400, "not all base64"),
        (request({**FILE, "data": [7]}), {}, 400, "not all base64"),
        (request({**FILE, "data": ["", ""]}), {}, 400, "2 elements"),
        (request({**FILE, "data": [""]}), {}, 400, "The image is empty"),
        (request(pixels()), {BINARY: "-1"}, 400, "Inference-Header-Content-Length is '-1'"),
        (request(pixels()), {BINARY: "999999999"}, 400, "but the body has"),
        (request(pixels()), {BINARY: "9" * 40}, 400, "but the body has"),
        (request(pixels()), {BINARY: "2"}, 400, "JSON"),
        (*with_tail(pixels(), b"more"), 400, "4 bytes follow the document"),
        (*with_tail(pixels(data=..., parameters={"binary_data_size": 5}), b"more"), 400, "4 bytes follow"),
        (*with_tail(pixels(data=..., parameters={"binary_data_size": 4}), b"more"), 400, "has 3072 bytes"),
        (*with_tail(pixels(data=..., parameters={"binary_data_size": True}), b"m"), 400, "binary_data_size True"),
        (*with_tail({**FILE, "parameters": {"binary_data_size": 3}}, b"\0\0\0"), 400, "end within a length"),
        (*with_tail({**FILE, "parameters": {"binary_data_size": 5}}, b"\xff\xff\xff\xff1"), 400, "1 are left"),
        (*with_tail({**FILE, "shape": [2], "parameters": SIZE}, ELEMENT), 400, "1 elements"),
        (*with_tail({**FILE, "shape": [1, 2], "parameters": SIZE}, ELEMENT), 400, "it must be [N] or [N, 1]"),
        (*with_tail({**FILE, "shape": [], "parameters": SIZE}, ELEMENT), 400, "it must be [N] or [N, 1]"),
        (*with_tail({**FILE, "parameters": {"binary_data_size": 40}}, ELEMENT[:40]), 400, "36 are left"),
    ],
)
async def test_refusals(client, body, headers, status, says):
    refused = await client.post(URL, content=body, headers=headers)
    assert refused.headers["content-type"] == "application/json"
    assert refused.json().keys() == {"error"}
    assert says in refused.json()["error"], refused.json()
    assert refused.status_code == status


@pytest.mark.parametrize("longest", ["x" * 30_000, "", None, 1e300, [[[1]]]])
async def test_one_wrong_element_does_not_take_the_memory_of_all(client, longest):
    """NumPy makes every element as large as the longest text: 3072 of 30,000 characters would be 370 MB."""
    body = request(pixels(data=[1] * (GREY.size - 1) + [longest]))
    tracemalloc.start()
    try:
        refused = await client.post(URL, content=body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (refused.status_code, "3072 whole numbers" in refused.text) == (400, True)
    assert peak < 5_000_000


async def test_the_one_of_several_files_that_cannot_be_read_is_named(client):
    good, bad = (base64.b64encode(each).decode() for each in (JPEG, b"no picture"))
    body = request({**FILE, "shape": [3], "data": [good, bad, good]})
    refused = await client.post(URL, content=body)
    assert refused.status_code == 415
    assert refused.json()["error"].startswith("image 2: The content seems to be text.")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/tiny-nothing", 404),
        ("GET", "/v2/models/..%2f..%2fetc", 404),
        ("GET", "/v2/models/tiny-colours/versions/9", 404),
        ("GET", "/v2/models/tiny-colours/versions/9/ready", 404),
        ("POST", "/v2/models/tiny-nothing/infer", 404),
        ("POST", "/v2/models/tiny-colours/versions/9/infer", 404),
        ("GET", URL, 405),
        ("GET", "/v2/models/" + "x" * 300, 422),
    ],
)
async def test_errors_have_the_protocols_shape_under_v2_only(client, method, path, status):
    refused = await client.request(method, path)
    assert (refused.status_code, refused.json().keys()) == (status, {"error"})
    assert "code" in (await client.get("/v2x")).json()


async def test_the_same_metrics_as_elsewhere(client):
    labels = {"task": "classify", "model": "tiny-colours", "version": "1", "variant": "full", "kernel": "onnxruntime"}
    before = metric(client, "bireal_requests_total", **labels, outcome="ok")
    await client.post(URL, content=request(pixels(shape=[2, *SHAPE[1:]], data=[0] * (2 * GREY.size))))
    assert metric(client, "bireal_requests_total", **labels, outcome="ok") == before + 2
    before = metric(client, "bireal_requests_total", **labels, outcome="client_error")
    await client.post(URL, content=request({**FILE, "data": [""]}))
    assert metric(client, "bireal_requests_total", **labels, outcome="client_error") == before + 1


async def test_openapi_declares_the_protocols_errors(client):
    document = (await client.get("/openapi.json")).json()
    responses = document["paths"]["/v2/models/{model}/infer"]["post"]["responses"]
    assert responses["400"]["content"]["application/json"]["schema"]["required"] == ["error"]
    assert document["components"]["schemas"]["InferRequest"]["required"] == ["inputs"]
    assert "#/components/schemas/InputTensor" in json.dumps(document["components"]["schemas"]["InferRequest"])
    assert "InputTensor" in document["components"]["schemas"]


async def test_the_configuration_says_which_batches_are_made(anyio_backend, zoo):
    async with running(zoo, max_batch=4, workers=2) as client:
        config = (await client.get("/v2/models/tiny-ramp/config")).json()
        assert config["dynamic_batching"] == {"preferred_batch_size": [4], "max_queue_delay_microseconds": 0}
        assert config["instance_group"] == [{"kind": "KIND_CPU", "count": 2}]
        assert (await client.get("/v2/models/tiny-ramp/versions/1/config")).json() == config
        unknown = await client.get("/v2/models/tiny-ramp/versions/9/stats")
        assert (unknown.status_code, list(unknown.json())) == (404, ["error"])
        (one,) = (await client.get("/v2/models/tiny-ramp@1/stats")).json()["model_stats"]
        assert (one["version"], one["inference_count"], one["batch_stats"]) == ("1", 0, [])
