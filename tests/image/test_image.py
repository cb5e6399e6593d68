"""The real image: built from the Dockerfile, run as an operator would run it, and looked into."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.deploy.traffic import JPEG, photo
from tests.image import containers
from tests.tiny_zoo import write_zoo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * containers.BUILD_S)]

SIZE_MAX_MB = 700
READY_MAX_S = 5.0

HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@dataclass(frozen=True)
class Running:
    """A container that is ready."""

    name: str
    url: str
    ready_s: float


@pytest.fixture(scope="module")
def image() -> str:
    """The image's name; built once."""
    containers.need_tools()
    return containers.build()


@contextlib.contextmanager
def running(image: str, *options: str) -> Iterator[Running]:
    """A container on a free port of the loopback interface; removed at the end."""
    command = ["podman", "--runtime=runc", "run", "--detach", "--publish=127.0.0.1::8000", *containers.ulimits()]
    begun = time.monotonic()
    name = containers.run(*command, *options, image)
    try:
        url = f"http://{containers.run('podman', 'port', name, '8000').splitlines()[0]}"
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz").is_success:
                    break
            assert time.monotonic() < begun + 60, containers.run("podman", "logs", name)
            time.sleep(0.02)
        yield Running(name, url, time.monotonic() - begun)
    finally:
        subprocess.run(["podman", "rm", "--force", "--time=1", name], capture_output=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Running]:
    """As docker-compose.yml and the Kubernetes files run it, on one core."""
    with running(image, *HARDENED, "--cpuset-cpus=0") as found:
        yield found


def test_ready_on_one_core_soon(container: Running) -> None:
    """By the CPU time that it took, since this machine may be busy with other things; and not absurdly by the clock."""
    spent = containers.run("podman", "exec", container.name, "python", "-c", "print(open('/proc/1/stat').read())")
    fields = spent.rsplit(")", 1)[1].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    print(f"ready after {container.ready_s:.2f} s, {cpu_s:.2f} s of CPU")
    assert cpu_s < READY_MAX_S


def test_both_tasks_answer_bit_packed(container: Running) -> None:
    for path in ("/classify", "/depth"):
        answer = httpx.post(f"{container.url}{path}", content=photo("red", (640, 400)), headers=JPEG, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["variant"] == "binary"
        assert answer.json()["kernel"] != "onnxruntime"


def test_runs_as_nobody_in_particular_and_writes_only_where_it_may(container: Running) -> None:
    code = """
import json, os
def writable(path):
    try:
        open(path + "/probe", "w").close()
        return True
    except OSError:
        return False
status = dict(line.split(":", 1) for line in open("/proc/1/status").read().splitlines())
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "capabilities": int(status["CapEff"], 16),
    "no_new_privs": int(status["NoNewPrivs"]),
    "writable": [path for path in ("/", "/opt/bireal", "/models", "/usr", "/tmp", "/data") if writable(path)],
    "telemetry": os.environ["ORT_DISABLE_TELEMETRY"],
}))"""
    found = json.loads(containers.run("podman", "exec", container.name, "python", "-c", code))
    assert found == {
        "uid": 10001,
        "gid": 10001,
        "capabilities": 0,
        "no_new_privs": 1,
        "writable": ["/tmp", "/data"],
        "telemetry": "1",
    }


def test_what_is_not_in_it(container: Running) -> None:
    code = """
import importlib.util, shutil
programs = [name for name in ("gcc", "g++", "cc", "c++", "ld", "make", "cmake", "curl") if shutil.which(name)]
packages = [name for name in ("torch", "pip", "pytest", "models", "tests", "skbuild") if importlib.util.find_spec(name)]
print(programs, packages)"""
    # -P, -I: what the service can import, not what lies in the folder that this runs in.
    assert containers.run("podman", "exec", container.name, "/opt/bireal/bin/python", "-I", "-c", code) == "[] []"
    base = "import os; print(os.path.realpath('/opt/bireal/bin/python'))"
    python = containers.run("podman", "exec", container.name, "/opt/bireal/bin/python", "-I", "-c", base)
    assert containers.run("podman", "exec", container.name, python, "-I", "-c", code) == "[] []"


def test_its_own_health_check_passes(container: Running) -> None:
    (inspected,) = json.loads(containers.run("podman", "inspect", container.name))
    kind, *command = inspected["Config"]["Healthcheck"]["Test"]
    assert kind == "CMD"
    containers.run("podman", "exec", container.name, *command)


def test_stops_when_asked_and_says_that_all_is_well(image: str) -> None:
    with running(image, *HARDENED, "--env=BIREAL_DRAIN_S=0") as found:
        containers.run("podman", "stop", "--time=30", found.name)
        (inspected,) = json.loads(containers.run("podman", "inspect", found.name))
        assert inspected["State"]["ExitCode"] == 0


def test_a_volume_brings_other_models(image: str, tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path / "zoo")
    with running(image, *HARDENED, f"--volume={zoo}:/models:ro") as found:
        names = {model["name"] for model in httpx.get(f"{found.url}/models").json()["models"]}
        assert names == {"tiny-bireal", "tiny-bireal-depth", "tiny-colours", "tiny-ramp"}


def test_small_and_labelled(image: str) -> None:
    (inspected,) = json.loads(containers.run("podman", "image", "inspect", image))
    size_mb = inspected["Size"] / 1e6
    print(f"{size_mb:.0f} MB, base included")
    assert size_mb < SIZE_MAX_MB
    labels = inspected["Labels"]
    assert labels["org.opencontainers.image.title"] == "bireal-serve"
    assert labels["org.opencontainers.image.revision"] == "0123abc"
    assert inspected["User"] == "10001:10001"
