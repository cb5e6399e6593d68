"""The running service held to its own OpenAPI document by schemathesis: every operation, with right and wrong input."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.service_process import environment, running
from tests.tiny_zoo import write_zoo

CONFIG = Path(__file__).with_name("schemathesis.toml")
ADMIN = "an-admin-key-for-tests-only-0123456789"


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract")
    (folder / "admin").write_text(ADMIN)
    options = ("--fallback", "reference", "--admin-keys-file", folder / "admin")
    with running(write_zoo(folder / "zoo"), folder / "log", *options) as service:
        yield service


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_every_operation_does_what_the_document_says(live, tmp_path):
    program = Path(sys.executable).with_name("schemathesis")
    document = f"{live.url}/openapi.json"
    run = subprocess.run(
        [program, "--config-file", CONFIG, "run", document, "--url", live.url],
        cwd=tmp_path,
        env=environment(ADMIN_KEY=ADMIN),
        capture_output=True,
        text=True,
        timeout=900,  # where others have the CPU; alone it takes two minutes
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-2000:]
    assert "No issues found" in run.stdout or "passed" in run.stdout
    assert live.process.poll() is None
    log = live.log.read_text()
    for sign in ("Traceback", "unexpected error", " ERROR "):
        assert sign not in log
