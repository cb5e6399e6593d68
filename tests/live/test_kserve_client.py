"""KServe's own client, as it is, against the service as a process.

It pins older packages than the service has, so it lives in a virtual environment of its own, `.venv-kserve`, which
`make kserve` makes, and is driven as a process.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.live.service_process import ROOT
from tests.pictures import encode, photo

PYTHON = ROOT / ".venv-kserve" / "bin" / "python"
SCRIPT = Path(__file__).with_name("kserve_script.py")


@pytest.fixture(scope="module")
def found(service, tmp_path_factory) -> dict:
    if not PYTHON.is_file():
        pytest.skip("KServe's client is not installed: make kserve")
    picture = tmp_path_factory.mktemp("kserve") / "photo.jpg"
    picture.write_bytes(encode(photo(), "JPEG"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [PYTHON, SCRIPT, service.url, picture], capture_output=True, text=True, timeout=120, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_health(found):
    assert found["live"] is True
    assert found["ready"] is True
    assert found["model_ready"] is True
    assert found["no_model_ready"] is False


def test_pixels_as_json(found):
    answer = found["json"]
    assert (answer["model"], answer["id"], answer["label"]) == ("tiny-colours", "id-json", ["red"])
    assert answer["logits"] == pytest.approx([200 * 10 / 255, 0, 0], rel=1e-5)
    assert answer["parameters"]["variant"] == "full"


def test_pixels_as_binary_tensors(found):
    assert found["binary"]["shapes"] == {"logits": [2, 3], "probabilities": [2, 3], "label": [2]}
    assert found["binary_out"]["logits"] == pytest.approx([200 * 10 / 255, 0, 0], rel=1e-5)


def test_a_file(found, client):
    expected = client.post("/classify?model=tiny-colours&top_k=1", content=encode(photo(), "JPEG")).json()
    assert found["file"]["label"] == [expected["predictions"][0]["name"]]


def test_a_refusal_reaches_the_caller_in_words(found):
    assert "JPEG, PNG" in found["refused"]
    assert "415" in found["refused"]
