"""The load test: its arithmetic, and a short run of it against the real service."""

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from loadtest.pictures import photo_like
from loadtest.report import as_markdown, rows_as_json, summarise
from service import xnor_op
from service.errors import OpUnavailableError
from tests.live.service_process import ROOT, environment
from tests.tiny_zoo import write_zoo

SAMPLES = [("classify binary", float(ms), ms / 2, 200) for ms in range(1, 101)] + [
    ("classify binary", 900.0, None, 429),
    ("classify binary", 901.0, None, 0),
    ("classify full", 5.0, 1.0, 200),
]


def test_a_row_of_the_report():
    row = summarise("classify binary", SAMPLES, 10.0, server_cpu_s=0.5)
    assert (row.requests, row.failures) == (102, 2)
    assert row.statuses == {"0": 1, "200": 100, "429": 1}
    assert row.requests_per_s == 10
    assert (row.mean_ms, row.p50_ms, row.max_ms) == (50.5, 50.5, 100)
    assert row.p90_ms == pytest.approx(90.1)
    assert row.inference_p50_ms == 25.25
    assert row.server_cpu_ms == 5


def test_a_row_of_nothing():
    row = summarise("depth full", SAMPLES, 10.0, server_cpu_s=0.5)
    assert (row.requests, row.requests_per_s, row.p50_ms, row.server_cpu_ms) == (0, 0, None, None)


def test_the_table():
    machine = {"cpu": "a CPU", "usable_cpus": 2, "load_1m": 0.1, "commit": "abc"}
    rows = rows_as_json([summarise(name, SAMPLES, 10.0) for name in ("classify binary", "depth full")])
    text = as_markdown({"rows": rows, "users": 4, "seconds_each": 10, "kernel": "avx2", "machine": machine})
    assert "| classify binary | 102 | 2 | 10.0 | 50.5 |" in text
    assert "4 users at a time, 10 s each" in text


def test_the_picture_that_is_sent():
    data = photo_like()
    assert data == photo_like()
    assert data != photo_like(seed=2)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (500, 375)
    assert 20_000 < len(data) < 150_000  # what photographs of that size take


def load_test(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadtest.run", *map(str, arguments)],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=200,
    )


def needs_op() -> None:
    try:
        xnor_op.kernel_name()
    except OpUnavailableError as error:
        pytest.skip(f"the bit-packed operator: {error.detail}")


@pytest.mark.slow
def test_one_command_from_nothing_to_a_report(tmp_path: Path):
    needs_op()
    # Looked for and not imported: Locust patches threads and sockets of whatever process imports it.
    if importlib.util.find_spec("locust") is None:
        pytest.skip("locust is not installed (extra: bench)")
    zoo = write_zoo(tmp_path / "zoo")
    arguments = ("--json", "--users", 2, "--seconds", 3, "--warm-up", 0, "--variants", "binary,full")
    ended = load_test(*arguments, BIREAL_MODEL_DIR=str(zoo))
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    names = [row["name"] for row in document["rows"]]
    assert names == ["classify binary", "classify full", "depth binary", "depth full"]
    for row in document["rows"]:
        assert row["requests"] > 0
        assert row["failures"] == 0
        assert 0 < row["inference_p50_ms"] < row["p50_ms"] <= row["p99_ms"]
        assert row["server_cpu_ms"] > 0
    assert document["kernel"] == xnor_op.kernel_name()
    assert document["machine"]["commit"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--variants", "ternary"], "ternary"),
        (["--users", "0"], "--users"),
        (["--image", "absent.jpg"], "absent.jpg"),
    ],
)
def test_arguments_that_are_not_valid(arguments, said):
    ended = load_test(*arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stdout == ""
