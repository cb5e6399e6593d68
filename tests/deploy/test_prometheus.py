"""A real Prometheus scrapes the real service, and each panel's query is put to it as Grafana would."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml
from PIL import Image

from deploy.grafana import generate, pictures
from deploy.grafana.panels import Dashboard
from loadtest import stack
from tests.deploy.promql import plain
from tests.deploy.traffic import (
    ANSWER_S,
    EXPERIMENTS,
    MANY,
    overload,
    send_a_little_of_everything,
    take_part_and_say_what_was_right,
)
from tests.tiny_zoo import write_zoo

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "deploy/prometheus/prometheus.yml"
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
RATE_INTERVAL = "15m"  # all that was scraped, however long it took
# What is measured when workers are idle, after the answers.
IN_THE_BACKGROUND = ("bireal_parity_ok", "bireal_parity_layer_sign_agreement", "bireal_experiment_agreement")
SCRAPES_S = 300.0  # patience with scrapes, which fail where others have the CPU

pytestmark = pytest.mark.timeout(1200)  # the fixture is part of the first test's time


def tool(name: str) -> str:
    """The path of a program, or the test is skipped by that program's name."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian and Ubuntu: apt-get install prometheus)")
    return found


class Scraped(NamedTuple):
    """A Prometheus, and when it had seen all that it is asked about.

    Attributes:
        address: of its HTTP interface.
        begun: the first scrape, seconds of the epoch.
        at: the last one that was waited for; queries are put as of then, however long the tests before them took.
    """

    address: str
    begun: float
    at: float

    def get(self, path: str, **parameters: object) -> Any:
        """Data of an answer of its interface."""
        answer = httpx.get(f"{self.address}/api/v1/{path}", params=parameters, timeout=60)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def ask(self, expression: str) -> list[Any]:
        """The result of an instant query."""
        result: list[Any] = self.get("query", query=expression, time=self.at)["result"]
        return result


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """A Prometheus that has scraped two replicas before, between and after requests.

    One has a queue so small that it drops; the other's operator cannot run, so that the reference answers for it. What
    the dashboards show of trouble is thus there to be seen, and no panel may be empty.
    """
    tool("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    zoo = write_zoo(folder / "zoo")
    common = ("--model-dir", zoo, "--drain-s", 0, "--workers", 1, "--decode-threads", 1, "--intra-op-threads", 1)
    common += ("--default-timeout-s", ANSWER_S, "--max-images-per-request", MANY)
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
        with stack.prometheus([small.url, fallback.url], folder, scrape_s=2) as address:
            begun = time.time()

            def scraped(least: float) -> float | None:
                """The present, if both replicas' last scrape succeeded and so many did before."""
                now = time.time()
                state = Scraped(address, begun, now)
                enough = state.ask(f"min(up) == 1 and min(sum_over_time(up[1h])) >= {least}")
                return now if enough and len(state.ask("up")) == 2 else None

            for least in (2, 4, 6):
                stack.wait_for(f"each replica was scraped {least} times", lambda least=least: scraped(least), SCRAPES_S)
                send()
            answer = Scraped(address, begun, time.time()).ask("max(sum_over_time(up[1h]))")
            least = float(answer[0]["value"][1]) + 2
            moments: list[float | None] = []

            def seen() -> bool:
                moments.append(scraped(least))
                if moments[-1] is None:
                    return False
                state = Scraped(address, begun, moments[-1])
                return all(state.ask(name) for name in IN_THE_BACKGROUND)

            stack.wait_for("the last requests were scraped", seen, SCRAPES_S)
            assert moments[-1] is not None
            yield Scraped(address, begun, moments[-1])


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
def test_panel_has_an_answer(prometheus: Scraped, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        series = prometheus.ask(plain(target["expr"], RATE_INTERVAL))
        if target["expr"] not in MAY_BE_ABSENT:
            assert series, f"nothing for {target['expr']}"
            assert any(math.isfinite(float(one["value"][1])) for one in series), f"no number for {target['expr']}"
        for label in set(target["legendFormat"].split("{{")[1:]):
            name = label.partition("}}")[0]
            assert all(one["metric"].get(name) for one in series), f"series without {name}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_choice_at_the_top_has_values(prometheus: Scraped, path: Path) -> None:
    for variable in json.loads(path.read_text())["templating"]["list"]:
        metric, label = variable["query"]["query"].removeprefix("label_values(").removesuffix(")").split(", ")
        assert prometheus.get(f"label/{label}/values", **{"match[]": metric}), f"no {label} of {metric}"


@pytest.mark.parametrize("board", generate.DASHBOARDS, ids=lambda board: board.name)
def test_pictures_are_drawn_from_the_answers(prometheus: Scraped, board: Dashboard, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: dev)")
    path = tmp_path / "board.png"
    pictures.draw(board.document(), prometheus.address, (prometheus.begun, prometheus.at), path)
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


def test_binary_and_full_are_told_apart(prometheus: Scraped) -> None:
    ran = prometheus.ask("sum by (task, variant) (bireal_requests_total)")
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
    assert job["static_configs"] == [{"targets": ["bireal:8000"]}], "what is always there is down when it is gone"
    (discovery,) = job["dns_sd_configs"]
    aliases = {
        alias
        for service in services.values()
        for network in service.get("networks", {}).values()
        for alias in network.get("aliases", [])
    }
    assert set(discovery["names"]) == aliases
    assert services["bireal"]["ports"] == [f"127.0.0.1:8000:{discovery['port']}"]
