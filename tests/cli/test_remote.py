"""`predict --url`: the same output as without, from a running service."""

import json
import subprocess

import pytest

from tests.live.service_process import ROOT, command, environment, running
from tests.pictures import encode, photo
from tests.tiny_zoo import write_zoo

KEY = "a-key-for-tests-only-0123456789abcdef"


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    (folder / "photos").mkdir()
    (folder / "photos/cat.jpg").write_bytes(encode(photo(), "JPEG"))
    (folder / "photos/torn.jpg").write_bytes(encode(photo(), "JPEG")[:4000])
    (folder / "key").write_text(KEY + "\n")
    options = ("--fallback", "reference", "--api-keys-file", folder / "key")
    with running(write_zoo(folder / "zoo"), folder / "log", *options) as service:
        service.folder = folder
        yield service


def predict(live, *arguments: object) -> subprocess.CompletedProcess[str]:
    whole = command("predict", *arguments, "--url", live.url)
    return subprocess.run(whole, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)


def test_one_picture(live):
    folder = live.folder
    run = predict(live, folder / "photos/cat.jpg", "--json", "--variant", "full", "--key-file", folder / "key")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["predictions"][0]["name"] == "red"
    assert found["file"].endswith("cat.jpg")


def test_a_folder_with_a_broken_picture(live):
    run = predict(live, live.folder / "photos", "--json", "--key-file", live.folder / "key")
    assert run.returncode == 1, run.stderr
    results = json.loads(run.stdout)["results"]
    assert results[0]["predictions"]
    assert results[1]["code"] == "broken-image"


def test_a_depth_map(live, tmp_path):
    path = live.folder / "photos/cat.jpg"
    out = tmp_path / "depth.npy"
    run = predict(live, path, "--task", "depth", "--output", out, "--key-file", live.folder / "key")
    assert run.returncode == 0, run.stderr
    assert out.read_bytes().startswith(b"\x93NUMPY")
    assert " m, median " in run.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "key"), (["--key-file", "/no/such/file"], "cannot be read"), (["--model", "none"], "key")],
)
def test_what_goes_wrong_is_one_sentence(live, arguments, said):
    run = predict(live, live.folder / "photos/cat.jpg", *arguments)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_nobody_there(live):
    whole = command("predict", live.folder / "photos/cat.jpg", "--url", "http://127.0.0.1:9")
    run = subprocess.run(whole, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "was not reached in 4 tries" in run.stderr
