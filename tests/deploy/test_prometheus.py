"""A real Prometheus scrapes the real service, and each panel's query is put to it as Grafana would."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from tests.deploy.promql import plain
from tests.tiny_zoo import write_zoo

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "deploy/prometheus/prometheus.yml"
RATE_INTERVAL = "20s"

# Panels that show what should not happen: their queries have to be answered, but may find nothing.
MAY_BE_EMPTY = {"Errors", "Dropped", "Answered by another variant"}


def tool(name: str) -> str:
    """The path of a program, or the test is skipped by that program's name."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian and Ubuntu: apt-get install prometheus)")
    return found


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(
    what: str, process: subprocess.Popen[bytes], condition: Callable[[], bool], timeout_s: float = 60.0
) -> None:
    """Ask until the answer is yes, or the process that has to give it is gone."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, f"not reached: {what}; the process ended with {process.returncode}"
        try:
            if condition():
                return
        except httpx.TransportError:  # not listening yet
            pass
        time.sleep(0.1)
    pytest.fail(f"{what} within {timeout_s:g} s")


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; if it ends badly, show what the program said."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
        except BaseException:
            print(f"--- {log.name}\n{log.read_text()[-4000:]}")
            raise
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def photo(colour: str) -> bytes:
    """A JPEG of one colour."""
    data = io.BytesIO()
    Image.new("RGB", (120, 60), colour).save(data, "JPEG")
    return data.getvalue()


def send_a_little_of_everything(service: str) -> None:
    """Each task by each variant, a comparison, and a mistake of the client's."""
    jpeg = {"content-type": "image/jpeg"}
    with httpx.Client(base_url=service, timeout=30) as client:
        for variant in ("binary", "reference", "full"):
            for path in ("/classify", "/depth"):
                answer = client.post(path, params={"variant": variant}, content=photo("red"), headers=jpeg)
                assert answer.status_code == 200, answer.text
        for path in ("/compare/classify", "/compare/depth"):
            answer = client.post(path, content=photo("green"), headers=jpeg)
            assert answer.status_code == 200, answer.text
        answer = client.post("/classify", content=b"not an image", headers=jpeg)
        assert 400 <= answer.status_code < 500


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has scraped the service before, between and after requests."""
    program = tool("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    service_port, prometheus_port = free_port(), free_port()
    service, address = f"http://127.0.0.1:{service_port}", f"http://127.0.0.1:{prometheus_port}"

    config = yaml.safe_load(CONFIG.read_text())
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "bireal")
    del job["dns_sd_configs"]  # no compose network here
    job["static_configs"] = [{"targets": [f"127.0.0.1:{service_port}"]}]
    config["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    serve = [sys.executable, "-m", "service", "serve"]
    scrape = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{prometheus_port}",
    ]
    settings = {
        "BIREAL_PORT": str(service_port),
        "BIREAL_MODEL_DIR": str(write_zoo(folder / "zoo")),
        "BIREAL_DEFAULT_CLASSIFY_MODEL": "tiny-bireal",
        "BIREAL_DEFAULT_DEPTH_MODEL": "tiny-bireal-depth",
        "BIREAL_DRAIN_S": "0",
    }
    with running(serve, folder / "service.log", **settings) as serving:
        wait_for("the service is ready", serving, lambda: httpx.get(f"{service}/readyz").is_success)
        send_a_little_of_everything(service)  # counters begin to exist before the first scrape
        with running(scrape, folder / "prometheus.log") as scraping:

            def scraped(least: int) -> bool:
                answer = httpx.get(f"{address}/api/v1/query", params={"query": "sum(count_over_time(up[1m]))"})
                found = answer.json()["data"]["result"] if answer.is_success else []
                return bool(found) and int(found[0]["value"][1]) >= least

            wait_for("Prometheus has scraped the service", scraping, lambda: scraped(2))
            send_a_little_of_everything(service)
            wait_for("Prometheus has scraped the service again", scraping, lambda: scraped(5))
            yield address


def ask(prometheus: str, expression: str) -> list[Any]:
    """The result of an instant query."""
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression})
    assert answer.is_success, answer.text
    result: list[Any] = answer.json()["data"]["result"]
    return result


def panels() -> list[Any]:
    """Every panel of every dashboard, named for the test's report."""
    return [
        pytest.param(panel, id=f"{path.stem}-{panel['title']}")
        for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        if panel["type"] != "row"
    ]


@pytest.mark.parametrize("panel", panels())
def test_panel_has_an_answer(prometheus: str, panel: dict[str, Any]) -> None:
    results = [ask(prometheus, plain(target["expr"], RATE_INTERVAL)) for target in panel["targets"]]
    if panel["title"] not in MAY_BE_EMPTY:
        assert any(results)


def test_binary_and_full_are_told_apart(prometheus: str) -> None:
    ran = ask(prometheus, "sum by (task, variant) (bireal_requests_total)")
    assert {(sample["metric"]["task"], sample["metric"]["variant"]) for sample in ran} == {
        (task, variant) for task in ("classify", "depth") for variant in ("binary", "reference", "full")
    }


def test_the_configuration_is_valid() -> None:
    run = subprocess.run(
        [tool("promtool"), "check", "config", CONFIG], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_prometheus_asks_the_name_and_port_that_compose_gives_the_service() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    (job,) = (job for job in yaml.safe_load(CONFIG.read_text())["scrape_configs"] if job["job_name"] == "bireal")
    (discovery,) = job["dns_sd_configs"]
    assert set(discovery["names"]) <= services.keys()
    assert services["bireal"]["ports"] == [f"127.0.0.1:8000:{discovery['port']}"]
