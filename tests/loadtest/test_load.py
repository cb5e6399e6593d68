"""The load test of each task and variant against a service that runs, and Locust by hand as the container has it."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from loadtest import load, stack
from loadtest.pictures import photo_like
from loadtest.scenarios.schema import LoadDocument, recorded
from tests.deploy.traffic import MANY, kept_full
from tests.live.service_process import ROOT, environment, running
from tests.tiny_zoo import write_zoo


def test_the_picture_that_is_sent():
    data = photo_like()
    assert data == photo_like()
    assert data != photo_like(seed=2)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (500, 375)
    assert 20_000 < len(data) < 150_000  # what photographs of that size take


def load_test(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadtest.load", *map(str, arguments)],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=250,
    )


def needs_locust() -> None:
    # Looked for and not imported: Locust patches threads and sockets of whatever process imports it.
    if importlib.util.find_spec("locust") is None:
        pytest.skip("locust is not installed (extra: bench)")


@pytest.mark.slow
def test_each_task_and_variant_of_a_service_that_runs(op, tmp_path: Path):
    needs_locust()
    with running(write_zoo(tmp_path / "zoo"), tmp_path / "log", "--kernel", "scalar") as live:
        arguments = ("--url", f"{live.url}/", "--scenarios", "saturate", "--users", 2, "--seconds", 2, "--turns", 1)
        ended = load_test(*arguments, "--warm-up", 0, "--variants", "binary,full", "--json")
        assert ended.returncode == 0, ended.stderr
        assert live.stop() == 0
    document = LoadDocument.model_validate_json(ended.stdout)
    assert [run.title for run in document.runs] == ["classify binary", "classify full", "depth binary", "depth full"]
    for run in document.runs:
        assert [step.level for step in run.steps] == [1, 2]
        for step in run.steps:
            (found,) = step.groups
            assert found.answered == found.requests
            if found.requests:  # a machine with other work may come to none in a step
                assert found.statuses == {"200": found.answered}
                assert found.latency_ms is not None and found.inference_p50_ms is not None
                assert 0 < found.inference_p50_ms < found.latency_ms.p50 <= found.latency_ms.p99
                assert step.cpu_ms_per_request is not None and step.cpu_ms_per_request > 0
        assert any(step.groups[0].requests for step in run.steps), run.title
    assert (document.url, document.kernel) == (live.url, "scalar")  # the service's, not this process's
    assert document.machine.commit
    # Nothing says that it had one core, so nothing is said of what one core does.
    assert (document.capacity, document.service_cpus) == ((), None)


@pytest.mark.slow
def test_a_full_queue_refuses_and_nothing_failed(tmp_path: Path):
    needs_locust()
    zoo = write_zoo(tmp_path / "zoo")
    options = ("--fallback", "reference", "--queue-size", 1, "--workers", 1, "--max-images-per-request", MANY)
    with running(zoo, tmp_path / "log", *options) as live, kept_full(live.url):
        asked = ("--url", live.url, "--tasks", "depth", "--variants", "binary", "--users", 8)
        asked += ("--seconds", 2, "--warm-up", 0, "--turns", 1)
        ended = load_test(*asked, "--scenarios", "saturate", "--json")
        assert ended.returncode == 0, ended.stderr
        # Rates are shares of capacity, which a service that refuses does not show.
        refused = load_test(*asked, "--scenarios", "steady", "--json")
    (run,) = LoadDocument.model_validate_json(ended.stdout).runs
    groups = [step.groups[0] for step in run.steps]
    assert sum(found.refused for found in groups) > 0
    for found in groups:
        assert found.failed == 0
        assert (found.statuses or {}).get("429", 0) == found.refused
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "capacity is unknown" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scenarios", "storm"], "'storm' is not one of saturate, steady"),
        (["--variants", "ternary"], "'ternary' is not one of binary"),
        (["--users", "0"], "--users"),
        (["--warm-up", "long"], "'long' is not a finite number of seconds of at least 0"),
        (["--warm-up", "inf"], "'inf' is not a finite number"),
        (["--image", "absent.jpg"], "there is no file absent.jpg"),
        (["--url", "localhost:8000"], "does not start with http://"),
        (["--url", "http://localhost:1", "--", "--queue-size", "5"], "leave out either them or --url"),
        (["--url", "http://localhost:1", "--record"], "leave out --url and --no-pin"),
        (["--scenarios", "mixed", "--tasks", "classify"], "mixed needs other --tasks or --variants"),
        (["--scenarios", "ab", "--variants", "full"], "ab needs other --tasks or --variants"),
        (["--no-pin", "--record"], "leave out --url and --no-pin"),
    ],
)
def test_arguments_that_are_not_valid(arguments, said):
    ended = load_test(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr


@pytest.mark.parametrize(("package", "name"), [("locust", "Locust"), ("matplotlib", "matplotlib")])
def test_a_missing_package_is_named_before_anything_is_started(
    package: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == package else object())
    monkeypatch.setattr(load, "_running", lambda *_: pytest.fail("a service is started"))
    assert load.main(["--record", "--folder", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {name} is not installed: run `make .venv/.stamps/bench`")


def test_a_folder_that_cannot_be_recorded_to_costs_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[object] = []
    folder = tmp_path / "folder"
    document = recorded(load.FOLDER)[0]

    def measure(arguments: object) -> LoadDocument:
        measured.append(arguments)
        folder.rmdir()  # while it measures
        folder.write_text("in its place")
        return document

    monkeypatch.setattr(load, "measure", measure)
    (strange := tmp_path / "strange").mkdir()
    (strange / "notes.json").write_text("{}")
    (file := tmp_path / "file").touch()
    for nowhere in (strange, file, file / "below"):
        assert load.main(["--record", "--folder", str(nowhere)]) == 2
        assert "error: " in capsys.readouterr().err
        assert not measured
    assert load.main(["--record", "--json", "--folder", str(folder)]) == 2
    said = capsys.readouterr()
    assert LoadDocument.model_validate_json(said.out) == document, "an hour's measurement is not lost"
    assert str(folder) in said.err


@pytest.mark.slow
def test_locust_by_hand_has_all_it_imports_where_compose_mounts_it(op, tmp_path: Path):
    needs_locust()
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["load"]
    for volume in compose["volumes"]:
        source, target = volume.split(":")[:2]
        at = tmp_path / target.removeprefix("/")
        at.parent.mkdir(parents=True, exist_ok=True)
        at.symlink_to(ROOT / source)
    packages = sysconfig.get_path("purelib")  # as a plain path: its .pth files would put the working copy there, too
    report, kinds = tmp_path / "report", {"classify binary", "classify full", "depth binary", "depth full"}
    with (
        running(write_zoo(tmp_path / "zoo"), tmp_path / "log") as live,
        (tmp_path / "said").open("w+") as said,
    ):
        command = (sys.executable, "-S", "-m", "locust", f"--locustfile={tmp_path}/mnt/loadtest/locustfile.py")
        search = os.pathsep.join([str(tmp_path / "mnt"), packages])
        locust = subprocess.Popen(
            [*command, "--headless", "--users=2", f"--host={live.url}", f"--json-file={report}"],
            cwd=tmp_path,
            env=environment(PYTHONPATH=search),
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            stack.wait_for("every kind of request was answered", lambda: answered(live.url) == kinds or locust.poll())
        finally:
            locust.terminate()
            locust.wait(60)
        said.seek(0)
        rows = json.loads(report.with_suffix(".json").read_text()) if locust.returncode == 0 else said.read()
        assert live.stop() == 0
    assert locust.returncode == 0, rows
    assert {row["name"] for row in rows} == kinds
    assert all(row["num_requests"] > row["num_failures"] == 0 for row in rows)


def answered(url: str) -> set[str]:
    """Tasks and variants that a service has answered, by its metrics."""
    families = text_string_to_metric_families(stack.get(f"{url}/metrics"))
    samples = [sample for family in families for sample in family.samples if sample.name == "bireal_requests_total"]
    return {f"{sample.labels['task']} {sample.labels['variant']}" for sample in samples if sample.value}
