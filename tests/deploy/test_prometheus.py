"""A real Prometheus scrapes the real service, and each panel's query is put to it as Grafana would."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from deploy.grafana import generate, pictures
from deploy.grafana.panels import Dashboard
from loadtest import stack
from tests.deploy.promql import plain
from tests.deploy.traffic import EXPERIMENTS, overload, send_a_little_of_everything, take_part_and_say_what_was_right
from tests.tiny_zoo import write_zoo

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "deploy/prometheus/prometheus.yml"
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
RATE_INTERVAL = "30s"


def tool(name: str) -> str:
    """The path of a program, or the test is skipped by that program's name."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian and Ubuntu: apt-get install prometheus)")
    return found


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has scraped two replicas before, between and after requests.

    One has a queue so small that it drops; the other's operator cannot run, so that the reference answers for it. What
    the dashboards show of trouble is thus there to be seen, and no panel may be empty.
    """
    tool("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    zoo = write_zoo(folder / "zoo")
    common = ("--model-dir", zoo, "--drain-s", 0, "--workers", 1, "--decode-threads", 1, "--intra-op-threads", 1)
    common += ("--default-classify-model", "tiny-bireal", "--default-depth-model", "tiny-bireal-depth")
    broken = ("--kernel", "abacus", "--fallback", "reference")  # a kernel that no CPU can run
    (folder / "experiments.yaml").write_text(yaml.safe_dump(EXPERIMENTS))
    trial = ("--experiments-file", folder / "experiments.yaml", "--feedback-store", folder / "feedback.db")
    trial += ("--parity-sample", 1, "--parity-layer-sample", 1, "--parity-probe-s", 0)
    with (
        stack.service([*common, *trial, "--queue-size", 2], log=folder / "small.log") as small,
        stack.service([*common, *broken], log=folder / "fallback.log") as fallback,
    ):

        def send() -> None:
            send_a_little_of_everything(small.url)
            send_a_little_of_everything(fallback.url, ("binary", "full"))
            take_part_and_say_what_was_right(small.url)

        send()
        overload(small.url)  # counters begin to exist before the first scrape
        with stack.prometheus([small.url, fallback.url], folder) as address:

            def scrapes() -> int:
                found = ask(address, "min(count_over_time(up[1m]))")
                return int(found[0]["value"][1]) if found else 0

            for least in (2, 4, 6):
                stack.wait_for(f"each replica was scraped {least} times", lambda least=least: scrapes() >= least)
                send()
            last = scrapes()
            stack.wait_for("the last requests were scraped", lambda: scrapes() >= last + 2)
            yield address


def ask(prometheus: str, expression: str) -> list[Any]:
    """The result of an instant query."""
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression}, timeout=30)
    assert answer.is_success, answer.text
    result: list[Any] = answer.json()["data"]["result"]
    return result


def panels() -> list[Any]:
    """Every panel of every dashboard, named for the test's report."""
    return [
        pytest.param(panel, id=f"{path.stem}-{panel['title']}")
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        if panel["type"] != "row"
    ]


# Absent where the machine states no limit, as outside containers.
MAY_BE_ABSENT = {"bireal_memory_limit_bytes"}


@pytest.mark.parametrize("panel", panels())
def test_panel_has_an_answer(prometheus: str, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        series = ask(prometheus, plain(target["expr"], RATE_INTERVAL))
        if target["expr"] not in MAY_BE_ABSENT:
            assert series, f"nothing for {target['expr']}"
            assert any(math.isfinite(float(one["value"][1])) for one in series), f"no number for {target['expr']}"
        for label in set(target["legendFormat"].split("{{")[1:]):
            name = label.partition("}}")[0]
            assert all(one["metric"].get(name) for one in series), f"series without {name}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_choice_at_the_top_has_values(prometheus: str, path: Path) -> None:
    for variable in json.loads(path.read_text())["templating"]["list"]:
        metric, label = variable["query"]["query"].removeprefix("label_values(").removesuffix(")").split(", ")
        answer = httpx.get(f"{prometheus}/api/v1/label/{label}/values", params={"match[]": metric}, timeout=30)
        assert answer.json()["data"], f"no {label} of {metric}"


@pytest.mark.parametrize("board", generate.DASHBOARDS, ids=lambda board: board.name)
def test_pictures_are_drawn_from_the_answers(prometheus: str, board: Dashboard, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: dev)")
    path = tmp_path / "board.png"
    now = time.time()
    pictures.draw(board.document(), prometheus, (now - 20, now), path)
    with Image.open(path) as picture:
        assert picture.width > 1000
        colours = picture.convert("RGB").getcolors(1 << 20)
        assert colours is not None
        assert len(colours) > 50  # curves and bars, not only text
    documented = (ROOT / "docs/dashboards/README.md").read_text()
    assert f"]({board.name}.png)" in documented
    assert (ROOT / "docs/dashboards" / f"{board.name}.png").is_file()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (2.5, "s", "2.5 s"),
        (1_370_000, "bytes", "1.37 MB"),
        (0.442, "percentunit", "44.2 %"),
        (1.0, "bool_yes_no", "Yes"),
        (7.5, "ops", "7.5 /s"),
        (math.nan, "ops", "-"),
    ],
)
def test_values_are_shown_with_their_unit(value: float, unit: str, text: str) -> None:
    assert pictures.shown(value, unit) == text


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
    aliases = {
        alias
        for service in services.values()
        for network in service.get("networks", {}).values()
        for alias in network.get("aliases", [])
    }
    assert set(discovery["names"]) <= services.keys() | aliases
    assert services["bireal"]["ports"] == [f"127.0.0.1:8000:{discovery['port']}"]
