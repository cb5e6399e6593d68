"""The dashboards ask only for what the service exports: every query is parsed and held against the metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from deploy.grafana import generate, pictures
from loadtest import stack
from tests.deploy.exported import TARGET_LABELS, exported_samples
from tests.deploy.promql import plain, selectors_and_labels

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(path.read_text())
    return dashboard


def panels(path: Path) -> list[dict[str, Any]]:
    """The panels that show something; rows are headings."""
    return [panel for panel in load(path)["panels"] if panel["type"] != "row"]


def queries() -> list[Any]:
    """Every query of every panel, named for the test's report."""
    return [
        pytest.param(target["expr"], id=f"{path.stem}-{panel['title']}-{target['refId']}")
        for path in DASHBOARDS
        for panel in panels(path)
        for target in panel["targets"]
    ]


def test_the_files_are_those_that_the_generator_writes() -> None:
    assert not generate.stale(), "run python -m deploy.grafana.generate"
    assert {path.stem for path in DASHBOARDS} == {"service", "binary-vs-full", "models"}


def test_a_file_that_was_edited_by_hand_is_noticed(tmp_path: Path) -> None:
    for name, text in generate.files().items():
        (tmp_path / name).write_text(text)
    assert not generate.stale(tmp_path)
    (tmp_path / "models.json").write_text("{}")
    (tmp_path / "extra.json").write_text("{}")
    (tmp_path / "service.json").unlink()
    assert generate.stale(tmp_path) == ["extra.json", "models.json", "service.json"]


@pytest.mark.parametrize("expression", queries())
def test_query_asks_for_what_the_service_exports(expression: str) -> None:
    known = exported_samples()
    found = selectors_and_labels(promql_parser.parse(plain(expression)))
    assert found.selectors
    available = set(TARGET_LABELS)
    for selector in found.selectors:
        assert selector.name in known, f"the service exports no {selector.name}"
        available |= known[selector.name]
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= known[selector.name] | TARGET_LABELS, f"{selector.name} has no label {matched}"
    assert found.grouped_by <= available


@pytest.mark.parametrize("expression", queries())
def test_counters_are_asked_for_as_rates(expression: str) -> None:
    for match in re.finditer(r"\w+_(?:total|bucket|sum|count)\b(?:\{[^}]*\})?(.)?", expression):
        assert match[1] == "[", f"{match[0]} only ever grows: take its rate"


@pytest.mark.parametrize("expression", queries())
def test_what_every_program_exports_is_asked_for_of_the_service_alone(expression: str) -> None:
    for selector in selectors_and_labels(promql_parser.parse(plain(expression))).selectors:
        named = {(matcher.name, matcher.value) for matcher in selector.matchers.matchers}
        assert selector.name.startswith("bireal_") or ("job", "bireal") in named, selector.name


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_explain_themselves(path: Path) -> None:
    for panel in panels(path):
        title = panel["title"]
        assert panel["description"].endswith((".", "?")), title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["fieldConfig"]["defaults"]["noValue"], title


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_legends_name_labels_that_the_query_keeps(path: Path) -> None:
    for panel in panels(path):
        for target in panel["targets"]:
            kept = selectors_and_labels(promql_parser.parse(plain(target["expr"]))).grouped_by | TARGET_LABELS
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert named <= kept, panel["title"]


def test_a_folder_without_images_is_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stack, "service", lambda *_, **__: pytest.fail("a service is started"))
    for folder in (tmp_path, tmp_path / "absent"):
        assert pictures.main(["--data", str(folder)]) == 2
        assert f"error: {folder} has no JPEG or PNG images" in capsys.readouterr().err


def answers(title: str, series: dict[str, str], at: str, expected: dict[str, float], folder: Path) -> str:
    """What promtool objects to: nothing, if a panel's first query gives these samples for these series."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian and Ubuntu: apt-get install prometheus)")
    (panel,) = (one for path in DASHBOARDS for one in panels(path) if one["title"] == title)
    samples = [{"labels": labels, "value": value} for labels, value in expected.items()]
    asked = {"expr": plain(panel["targets"][0]["expr"]), "eval_time": at, "exp_samples": samples}
    given = [{"series": name, "values": values} for name, values in series.items()]
    case = {"interval": "1m", "input_series": given, "promql_expr_test": [asked]}
    (folder / "test.yml").write_text(yaml.safe_dump({"tests": [case]}))
    run = subprocess.run(
        [promtool, "test", "rules", folder / "test.yml"], capture_output=True, text=True, timeout=60, check=False
    )
    return "" if run.returncode == 0 else run.stdout + run.stderr


def test_accuracy_given_up_is_of_the_same_data_set(tmp_path: Path) -> None:
    """The 1-bit network's card has an easier data set, too: its score there is no answer to the twin's elsewhere."""
    card = 'bireal_model_accuracy{task="classify", metric="top1", instance="a", '
    series = {
        f'{card}variant="full", dataset="dev"}}': "0.6",
        f'{card}variant="binary", dataset="dev"}}': "0.5",
        f'{card}variant="binary", dataset="easy"}}': "0.9",
    }
    expected = {'{task="classify", dataset="dev", metric="top1"}': 0.6 - 0.5}
    assert not answers("Accuracy given up", series, "0m", expected, tmp_path)


# One worker is busy for half of the time, with runs of 4 images that take a second: each image's time is the run's.
RUN = 'task="classify", model="m", variant="binary", kernel="avx2"'
IN_FOURS = {
    f'bireal_stage_seconds_sum{{{RUN}, stage="inference"}}': "0+120x10",
    f"bireal_batch_size_sum{{{RUN}}}": "0+120x10",
    f"bireal_batch_size_count{{{RUN}}}": "0+30x10",
    f"bireal_work_bops_total{{{RUN}}}": "0+1200x10",
}


def test_a_run_of_several_images_keeps_one_worker_busy(tmp_path: Path) -> None:
    busy = "Networks running at a time"
    assert not answers(busy, IN_FOURS, "10m", {'{variant="binary"}': 0.5}, tmp_path)
    idle = dict.fromkeys(IN_FOURS, "7x10")
    assert not answers(busy, idle, "10m", {'{variant="binary"}': 0}, tmp_path), "idle is 0, not unknown"


def test_the_kernels_rate_is_of_the_time_that_it_ran(tmp_path: Path) -> None:
    expected = {'{model="m", variant="binary", kernel="avx2"}': 40}
    assert not answers("Binary operations while inferring", IN_FOURS, "10m", expected, tmp_path)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap(path: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in load(path)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} covers {taken.get((x, y))}"
                taken[x, y] = panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_ids_are_unique_and_the_data_source_is_provisioned(path: Path) -> None:
    dashboard = load(path)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    provisioned = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in provisioned["datasources"]}
    used = {target["datasource"]["uid"] for panel in panels(path) for target in panel["targets"]}
    used |= {variable["datasource"]["uid"] for variable in dashboard["templating"]["list"]}
    assert used <= uids


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_variables_are_used_and_defined(path: Path) -> None:
    defined = {variable["name"] for variable in load(path)["templating"]["list"]}
    used = {
        name
        for panel in panels(path)
        for target in panel["targets"]
        for name in re.findall(r"\$(\w+)", target["expr"])
        if not name.startswith("__")
    }
    assert used == defined
    for variable in load(path)["templating"]["list"]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
        assert label in exported_samples()[metric]


def test_grafana_finds_the_dashboards_where_compose_mounts_them() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in compose["volumes"])
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/bireal.yml").read_text())["providers"][0]
    assert mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    home = Path(compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (ROOT / mounts[str(home.parent)] / home.name).is_file()
