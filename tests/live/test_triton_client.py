"""Triton's own client, as it is, against the service as a process."""

import time

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.live.service_process import running
from tests.pictures import encode, photo
from tests.tiny_zoo import CLASSIFY_SIZE, COLOURS, DEPTH_SIZE

JPEG = encode(photo(), "JPEG")
RED = np.zeros((1, *CLASSIFY_SIZE, 3), np.uint8)
RED[..., 0] = 200
KEY = "key-of-the-operator-1"


@pytest.fixture(scope="module")
def service(zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton")
    options = ("--fallback", "reference", "--max-images-per-request", 4)
    with running(zoo, folder / "log", *options, BIREAL_ADMIN_KEYS=KEY) as started:
        yield started


@pytest.fixture(scope="module")
def client(service):
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as connected:
        yield connected


def pixels(array: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", list(array.shape), "UINT8")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def files(*contents: bytes) -> triton.InferInput:
    tensor = triton.InferInput("encoded_image", [len(contents)], "BYTES")
    tensor.set_data_from_numpy(np.array(contents, dtype=np.object_), binary_data=True)
    return tensor


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny-colours")
    assert client.is_model_ready("tiny-colours", "1")
    assert not client.is_model_ready("tiny-nothing")
    server = client.get_server_metadata()
    assert server["name"] == "bireal-serve"
    assert {"binary_tensor_data", "classification"} <= set(server["extensions"])
    model = client.get_model_metadata("tiny-colours")
    assert model["versions"] == ["1"]
    assert model["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [-1, *CLASSIFY_SIZE, 3]},
        {"name": "encoded_image", "datatype": "BYTES", "shape": [-1]},
    ]
    assert model["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, len(COLOURS)]}


def test_configuration(client):
    config = client.get_model_config("tiny-colours")
    assert (config["name"], config["backend"], config["max_batch_size"]) == ("tiny-colours", "onnxruntime", 4)
    assert config["input"] == [
        {"name": "image", "data_type": "TYPE_UINT8", "dims": [*CLASSIFY_SIZE, 3], "optional": True},
        {"name": "encoded_image", "data_type": "TYPE_STRING", "dims": [], "optional": True},
    ]
    assert config["output"][0] == {"name": "logits", "data_type": "TYPE_FP32", "dims": [len(COLOURS)]}
    assert config["parameters"]["task"] == {"string_value": "classify"}
    assert "dynamic_batching" not in config
    assert client.get_model_config("tiny-colours", "1") == config
    with pytest.raises(InferenceServerException, match="no model 'tiny-nothing'"):
        client.get_model_config("tiny-nothing")


def statistics_with_runs(client, version, runs):
    """Statistics of tiny-ramp once they have so many runs: a run is counted after its answer has been handed over."""
    for _ in range(1000):
        (found,) = client.get_inference_statistics("tiny-ramp", version)["model_stats"]
        if found["execution_count"] >= (found["inference_count"] if runs is None else runs):
            return found
        time.sleep(0.01)
    return pytest.fail(f"{found['execution_count']} runs")


def test_statistics(client):
    before = statistics_with_runs(client, "1", None)
    for _ in range(3):
        client.infer("tiny-ramp", [files(JPEG, JPEG)])
    with pytest.raises(InferenceServerException):
        client.infer("tiny-ramp", [files(b"no picture")])
    after = statistics_with_runs(client, "", before["execution_count"] + 6)
    assert (after["name"], after["version"]) == ("tiny-ramp", "1")
    assert after["inference_count"] - before["inference_count"] == 6
    assert after["execution_count"] - before["execution_count"] == 6, "one image at a time is the default"
    assert [batch["batch_size"] for batch in after["batch_stats"]] == [1]
    assert after["batch_stats"][0]["compute_infer"]["count"] == after["execution_count"]
    stats, earlier = after["inference_stats"], before["inference_stats"]
    assert stats["success"]["count"] == after["inference_count"]
    assert stats["fail"]["count"] - earlier["fail"]["count"] == 1
    for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert stats[stage]["count"] - earlier[stage]["count"] == 6, stage
        assert stats[stage]["ns"] > earlier[stage]["ns"], stage
    assert stats["success"]["ns"] > stats["compute_infer"]["ns"]
    listed = [entry["name"] for entry in client.get_inference_statistics()["model_stats"]]
    assert {"tiny-bireal", "tiny-colours", "tiny-ramp"} <= set(listed)
    with pytest.raises(InferenceServerException, match="no model 'tiny-nothing'"):
        client.get_inference_statistics("tiny-nothing")


def test_no_extension_is_claimed_that_is_missing(client):
    """What of Triton's interface is not here is told by a 404, and is not among the extensions."""
    claimed = set(client.get_server_metadata()["extensions"])
    assert claimed == {
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
        "statistics",
    }
    for missing in (client.get_trace_settings, client.get_log_settings, client.get_system_shared_memory_status):
        with pytest.raises(InferenceServerException, match="There is nothing at '/v2/"):
            missing()


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_pixels_in_every_form(client, binary_in, binary_out, compression):
    result = client.infer(
        "tiny-colours",
        [pixels(RED, binary=binary_in)],
        outputs=[triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("logits", "label")],
        request_id="r-1",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_allclose(result.as_numpy("logits"), [[200 * 10 / 255, 0, 0]], rtol=1e-5)
    names = [name.decode() if isinstance(name, bytes) else name for name in result.as_numpy("label")]
    assert names == ["red"]
    document = result.get_response()
    assert (document["model_name"], document["model_version"], document["id"]) == ("tiny-colours", "1", "r-1")
    assert document["parameters"] == {"variant": "full", "kernel": "onnxruntime"}


def test_all_outputs_where_none_is_named(client):
    result = client.infer("tiny-colours", [pixels(RED)])
    assert result.as_numpy("probabilities").sum() == pytest.approx(1, abs=1e-6)
    assert result.as_numpy("label").tolist() == [b"red"]


def test_classes_in_place_of_logits(client):
    result = client.infer("tiny-colours", [pixels(RED)], outputs=[triton.InferRequestedOutput("logits", class_count=2)])
    (best, second) = result.as_numpy("logits")[0]
    value, index, name = best.decode().split(":")
    assert (float(value), index, name) == (pytest.approx(200 * 10 / 255, abs=1e-5), "0", "red")
    assert second.decode().endswith(":1:green")


def test_files_answer_as_classify_does(client, service):
    result = client.infer("tiny-bireal", [files(JPEG, encode(photo(), "PNG"))], parameters={"variant": "reference"})
    logits = result.as_numpy("logits")
    assert logits.shape == (2, len(COLOURS))
    with service.client() as http:
        answer = http.post("/classify?model=tiny-bireal&variant=reference&top_k=3", content=JPEG).json()
    named = {item["name"]: item["probability"] for item in answer["predictions"]}
    probabilities = result.as_numpy("probabilities")[0]
    assert [named[name] for _, name in COLOURS] == pytest.approx(probabilities.tolist(), abs=1e-6)
    assert result.get_response()["parameters"]["variant"] == "reference"


def test_the_twin_by_its_variant(client):
    document = client.infer("tiny-bireal", [pixels(RED)], parameters={"variant": "full"}).get_response()
    assert (document["model_name"], document["parameters"]["variant"]) == ("tiny-colours", "full")


def test_depth_and_disparity(client, service):
    result = client.infer("tiny-ramp", [files(JPEG)])
    depth, disparity = result.as_numpy("depth"), result.as_numpy("disparity")
    assert depth.shape == disparity.shape == (1, *DEPTH_SIZE)
    np.testing.assert_allclose(depth * disparity, 50.0 * 0.5327, rtol=1e-5)  # fx and baseline of the card
    with service.client() as http:
        answer = http.post("/depth?model=tiny-ramp", content=JPEG).json()
    assert answer["median_m"] == pytest.approx(float(np.median(depth)), rel=1e-6)


def test_versions(client):
    assert client.infer("tiny-colours", [pixels(RED)], model_version="1").get_response()["model_version"] == "1"
    with pytest.raises(InferenceServerException, match="no model 'tiny-colours@7'"):
        client.infer("tiny-colours", [pixels(RED)], model_version="7")


def test_the_repository(client):
    admin = {"x-api-key": KEY}
    with pytest.raises(InferenceServerException, match="no admin key"):
        client.get_model_repository_index()
    index = client.get_model_repository_index(headers=admin)
    assert {"name": "tiny-ramp", "version": "1", "state": "READY", "reason": ""} in index
    client.load_model("tiny-ramp", headers=admin)
    assert client.is_model_ready("tiny-ramp")


def test_asynchronous_and_with_time_enough(client):
    waiting = [client.async_infer("tiny-colours", [pixels(RED)], timeout=10_000_000) for _ in range(4)]
    assert all(request.get_result().as_numpy("label").tolist() == [b"red"] for request in waiting)


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        ([pixels(RED[:, :16])], {}, r"shape \[1, 16, 32, 3\]; tiny-colours accepts \[N, 32, 32, 3\]"),
        ([pixels(np.repeat(RED, 5, axis=0))], {}, "may carry 4 images; this one has 5"),
        ([files(b"no picture")], {}, "JPEG, PNG"),
        ([files()], {}, "N >= 1"),
        ([pixels(RED), files(JPEG)], {}, "several inputs"),
        (
            [triton.InferInput("pixels", [1], "UINT8").set_data_from_numpy(np.zeros(1, np.uint8))],
            {},
            "no input 'pixels'",
        ),
        (
            [triton.InferInput("image", [1], "FP32").set_data_from_numpy(np.zeros(1, np.float32))],
            {},
            "image is UINT8, not 'FP32'",
        ),
        ([pixels(RED)], {"timeout": 1}, "The request had 1e-06 s"),
        ([pixels(RED)], {"parameters": {"variant": "fast"}}, "no variant 'fast'"),
        ([pixels(RED)], {"parameters": {"variety": "full"}}, "no parameter 'variety'"),
        ([pixels(RED)], {"priority": 1}, "no parameter 'priority'"),
        ([pixels(RED)], {"outputs": [triton.InferRequestedOutput("depth")]}, "no output 'depth'"),
    ],
)
def test_refusals_reach_the_caller_in_words(client, inputs, options, says):
    with pytest.raises(InferenceServerException, match=says):
        client.infer("tiny-colours", inputs, **options)
