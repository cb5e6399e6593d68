"""Starting: what is said when something is missing, and what overload looks like."""

import json
import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from loadtest.stack import free_port
from service.cli import serve
from service.errors import SettingsError
from service.settings import load_settings
from tests.deploy.traffic import MANY, full_queue
from tests.live.service_process import ROOT, LiveService, command, environment, running
from tests.pictures import encode, photo
from tests.waiting import wait

JPEG = encode(photo(), "JPEG")


def test_without_the_op_it_is_not_ready_and_says_why(zoo, tmp_path):
    """The library under another name than the installed one: it is looked for and not found, for real."""
    (tmp_path / "sitecustomize.py").write_text("from service import xnor_op\nxnor_op.LIBRARY_NAME = 'absent.so'\n")
    with running(zoo, tmp_path / "log", ready=False, PYTHONPATH=f"{tmp_path}:{ROOT}") as service:
        body = service.wait_state("failed")
        (reason,) = body["reasons"]
        assert "library" in reason
        with service.client() as client:
            refused = client.post("/classify", content=JPEG)
            assert (refused.status_code, refused.json()["code"]) == (503, "op-unavailable")
            assert "make setup" in refused.text
            assert client.post("/classify?variant=reference", content=JPEG).status_code == 200
            assert client.get("/healthz").status_code == 200
            assert "bireal_ready 0.0" in client.get("/metrics").text


def test_with_the_fallback_it_is_ready_and_says_so(zoo, tmp_path):
    with running(zoo, tmp_path / "log", "--kernel", "abacus", BIREAL_FALLBACK="reference") as service:
        with service.client() as client:
            for path in ("/classify", "/depth"):
                body = client.post(path, content=JPEG).json()
                assert body["variant"] == "reference"
                assert "cannot run here" in body["fallback"]
            text = client.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("bireal_fallback_total{")]
        assert len(lines) == 2
        assert all(line.endswith(" 1.0") for line in lines)
        assert 'requested="binary"' in lines[0]
        assert 'ran="reference"' in lines[0]


def test_an_empty_model_folder(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with running(empty, tmp_path / "log", ready=False) as service:
        body = service.wait_state("failed")
        assert body["reasons"] == [
            "The model folder holds no model: a model is <name>/<version>/card.yaml with its file."
        ]
        with service.client() as client:
            assert client.get("/healthz").status_code == 200
            refused = client.post("/classify", content=JPEG)
            assert (refused.status_code, refused.json()["code"]) == (503, "not-ready")
        assert service.stop() == 0
        assert "not ready" in service.log.read_text()
        assert str(empty) in service.log.read_text()


def test_a_broken_model_takes_down_nobody_else(zoo, tmp_path):
    mended = shutil.copytree(zoo, tmp_path / "zoo")
    (mended / "tiny-ramp" / "1" / "model.onnx").write_bytes(b"\0")
    with running(mended, tmp_path / "log", "--fallback", "reference") as service, service.client() as client:
        assert client.post("/classify?variant=full", content=JPEG).status_code == 200
        refused = client.post("/depth?variant=full", content=JPEG)
        assert (refused.status_code, refused.json()["code"]) == (503, "model-broken")
        assert "sha256" in refused.json()["detail"]
        (broken,) = client.get("/models").json()["broken"]
        assert broken["name"] == "tiny-ramp@1"


def test_more_than_it_can_take_is_told_to_come_back(zoo, tmp_path):
    options = ("--queue-size", 2, "--workers", 1, "--decode-threads", 1, "--fallback", "reference")
    options += ("--max-images-per-request", MANY)
    with running(zoo, tmp_path / "log", *options) as service, service.client() as client:

        def ask(_: int):
            return client.post("/depth?variant=binary&size=original&format=npy", content=JPEG)

        refused = []
        while not refused:  # as long as what fills the queue was done before anybody asked
            with full_queue(service.url), ThreadPoolExecutor(10) as pool:
                responses = list(pool.map(ask, range(30)))
            assert {response.status_code for response in responses} <= {200, 429}
            refused = [response for response in responses if response.status_code == 429]
        for response in refused:
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["code"] == "overloaded"
        wait(lambda: "bireal_queue_depth 0.0" in client.get("/metrics").text, 60)
        assert client.post("/depth", content=JPEG).status_code == 200
        assert client.get("/readyz").status_code == 200


def start(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("serve", *arguments), cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=60
    )


def test_a_port_that_is_taken(zoo, tmp_path):
    with running(zoo, tmp_path / "log", ready=False) as service:
        port = service.url.rpartition(":")[2]
        ended = start("--port", port, "--model-dir", zoo)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert f"error: Cannot listen on 127.0.0.1, port {port}: Address already in use." in ended.stderr
    assert "Traceback" not in ended.stderr


def test_who_reads_the_address_no_more_does_not_end_the_service(zoo, tmp_path):
    """As in `serve --json | head -0`, or with an output on a full disk."""
    url, log = f"http://127.0.0.1:{free_port()}", tmp_path / "log"
    reader, writer = os.pipe()
    os.close(reader)
    whole = command("serve", "--json", "--port", url.rpartition(":")[2], "--model-dir", zoo)
    with log.open("w") as errors:
        process = subprocess.Popen(whole, cwd=ROOT, env=environment(), stdout=writer, stderr=errors, text=True)
    os.close(writer)
    service = LiveService(url, process, log)
    try:
        wait(lambda: process.poll() is not None or f"listening on {url}" in log.read_text(), 60)
        service.wait_ready()
        assert service.stop() == 0
    finally:
        process.kill()
        process.wait(10)
    assert "Traceback" not in log.read_text()


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_address_of_ipv6(zoo, tmp_path):
    with running(zoo, tmp_path / "log", "--host", "::1", ready=False) as service, service.client() as client:
        assert service.url.startswith("http://[::1]:")
        assert client.get("/healthz").status_code == 200


@pytest.mark.skipif(not (has_ipv6() and socket.has_dualstack_ipv6()), reason="this machine has no IPv6")
def test_all_interfaces_are_those_of_both_protocols():
    """The image asks 127.0.0.1 for its health, and a cluster with both protocols asks either address of a pod."""
    with serve._listen(load_settings({"host": "::", "port": 0})) as listener:
        for address in ("::1", "127.0.0.1"):
            with socket.create_connection((address, listener.getsockname()[1]), timeout=10) as client:
                assert client.getpeername()[0] == address


def test_an_address_that_is_none():
    ended = start("--host", "256.1.1.1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "error: Cannot listen on 256.1.1.1, port 8000" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("nosuch.invalid", "the name cannot be resolved (Name or service not known)."),
        ("x" * 70, "the name cannot be resolved ("),
    ],
)
def test_a_name_that_stands_for_no_address(monkeypatch, host, said):
    """The resolver is made up: without a network, the real one says something else, and takes long for it."""

    def unknown(*_, **__):
        host.encode("idna")  # which a socket does with it first
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def create(address, **_):
        try:
            unknown()
        except socket.gaierror as error:  # as the standard library does it
            raise OSError(error.errno, f"{error.strerror} (while attempting to bind on address {address!r})") from None

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(socket, "create_server", create)
    with pytest.raises(SettingsError) as caught:
        serve._listen(load_settings({"host": host}))
    assert caught.value.detail.startswith(f"Cannot listen on {host}, port 8000: {said}")
    assert "--host" in caught.value.remedy


def test_a_kernel_that_is_none(zoo):
    ended = start("--model-dir", zoo, "--port", 0, BIREAL_KERNEL="abacus")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "error: BIREAL_KERNEL='abacus' is not a kernel that this CPU can run." in ended.stderr
    assert "scalar" in ended.stderr, "the ones that there are"


def test_a_kernel_that_is_none_on_the_command_line(zoo):
    whole = command("models", "--model-dir", zoo, "--kernel", "abacus", "--json")
    ended = subprocess.run(whole, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    document = json.loads(ended.stdout)
    assert (ended.returncode, document["kernel"]) == (1, None)
    assert "scalar" in document["kernels"], "what to name in its place"
    assert "--kernel" in document["reasons"][0]


def test_a_model_folder_that_is_none(tmp_path):
    ended = start("--model-dir", tmp_path / "nowhere", "--port", 0)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "nowhere' does not exist" in ended.stderr
    assert "BIREAL_MODEL_DIR" in ended.stderr


def test_a_key_is_never_printed(zoo):
    ended = start("--model-dir", zoo, "--port", 0, BIREAL_API_KEYS="hunter2", BIREAL_PORT="x")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "key 1 has 7 characters" in ended.stderr
    assert "hunter2" not in ended.stderr


def test_a_misspelt_variable_is_warned_of(zoo, tmp_path):
    with running(zoo, tmp_path / "log", ready=False, BIREAL_QUEUESIZE="3") as service:
        assert service.stop() == 0
        assert "BIREAL_QUEUESIZE" in service.log.read_text()
        assert "BIREAL_QUEUE_SIZE" in service.log.read_text()


def test_standard_output_carries_one_document(zoo, tmp_path):
    with running(zoo, tmp_path / "log", "--fallback", "reference") as service:
        with service.client() as client:
            client.post("/classify", content=JPEG)
        service.stop()
        assert service.process.stdout.read() == ""  # the first line was the only one
    assert service.url.startswith("http://127.0.0.1:")
