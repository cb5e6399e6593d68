"""Every Python example of docs/client.md, run against a real service."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.service_process import environment, running
from tests.pictures import encode, photo
from tests.tiny_zoo import write_zoo

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(), re.DOTALL)
IMPORTED = "from service.client import Client\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    with running(write_zoo(folder / "zoo"), folder / "log", "--fallback", "reference") as live:
        yield live


def test_there_are_examples():
    assert len(EXAMPLES) == 6
    assert all("127.0.0.1:8000" in example for example in EXAMPLES)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(service, tmp_path, number):
    for name in ("photo.jpg", "road.jpg"):
        (tmp_path / name).write_bytes(encode(photo(), "JPEG"))
    text = IMPORTED + EXAMPLES[number].replace("http://127.0.0.1:8000", service.url)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.split()) >= 1
    assert "Traceback" not in run.stderr
