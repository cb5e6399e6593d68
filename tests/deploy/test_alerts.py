"""The alerts: they ask for what is exported, each fires and stays quiet when it should, and each has a runbook."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from service.app import create_app
from service.metrics import DEADLINE_BUCKETS, TIME_BUCKETS
from service.settings import Settings, load_settings
from tests.deploy.exported import TARGET_LABELS, exported_samples
from tests.deploy.promql import selectors_and_labels
from tests.tiny_zoo import write_zoo
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
ALERTMANAGER = ROOT / "deploy/alertmanager/alertmanager.yml"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.yml"))
UNIT_TESTS = sorted((ROOT / "tests/deploy/rules").glob("*.yml"))
RUNBOOKS = (ROOT / "docs/runbooks.md").read_text()
# What a rule records: level:metric:operations.
RECORDED = re.compile(r"\w+:\w+:\w+")


def tool(name: str) -> str:
    """The path of a program, or the test is skipped by that program's name."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian and Ubuntu: apt-get install prometheus prometheus-alertmanager)")
    return found


def rules() -> list[dict[str, Any]]:
    """Every rule of every group of every file."""
    groups = [group for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDS = {rule["record"]: rule for rule in rules() if "record" in rule}
EXPRESSIONS = [pytest.param(rule["expr"], id=rule.get("alert") or rule["record"]) for rule in rules()]


def unit_test_cases() -> list[dict[str, Any]]:
    return [case for path in UNIT_TESTS for case in yaml.safe_load(path.read_text())["tests"]]


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_rule_files_are_valid(path: Path) -> None:
    run = subprocess.run(
        [tool("promtool"), "check", "rules", path], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_alertmanager_reads_its_configuration() -> None:
    run = subprocess.run(
        [tool("amtool"), "check-config", ALERTMANAGER], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_quiet(path: Path) -> None:
    run = subprocess.run(
        [tool("promtool"), "test", "rules", path], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    expectations = [
        bool(expected.get("exp_alerts"))
        for case in unit_test_cases()
        for expected in case.get("alert_rule_test", [])
        if expected["alertname"] == alert
    ]
    assert True in expectations
    assert False in expectations


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_rules_ask_for_what_exists(expression: str) -> None:
    known = exported_samples()
    found = selectors_and_labels(promql_parser.parse(expression))
    assert found.selectors
    for selector in found.selectors:
        if RECORDED.fullmatch(selector.name):
            assert selector.name in RECORDS
            continue
        assert selector.name in known, f"the service exports no {selector.name}"
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= known[selector.name] | TARGET_LABELS, selector.name
    everything = {label for labels in known.values() for label in labels} | TARGET_LABELS
    assert found.grouped_by <= everything


def asked_by(rule: dict[str, Any]) -> set[str]:
    """Names of what a rule asks for."""
    return {selector.name for selector in selectors_and_labels(promql_parser.parse(rule["expr"])).selectors}


def test_every_record_is_used_by_an_alert() -> None:
    used = {name for rule in ALERTS.values() for name in asked_by(rule)}
    through = {name for record in used & RECORDS.keys() for name in asked_by(RECORDS[record])}
    assert RECORDS.keys() <= used | through


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts_say_what_and_whom_it_hurts_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "impact", "runbook"}
    assert notes["summary"].endswith(".")
    assert notes["impact"].endswith(".")
    page, _, anchor = notes["runbook"].partition("#")
    assert page == "docs/runbooks.md"
    assert anchor == alert.lower()


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert sorted(re.findall(r"^## (Bireal\w+)$", RUNBOOKS, re.MULTILINE)) == sorted(ALERTS)
    for section in RUNBOOKS.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        assert title in ALERTS
        assert len(text.split()) >= 15, f"{title}: say what to look at and what to do"


def test_latency_is_promised_at_bounds_of_buckets() -> None:
    bounds = set()
    for rule in RECORDS.values():
        bounds |= set(re.findall(r'le="([^"]+)"', rule["expr"]))
    assert bounds == {"0.222", "0.748"}
    for bound in bounds:
        assert bound in {str(bucket) for bucket in TIME_BUCKETS}
        assert bound in {str(bucket) for bucket in DEADLINE_BUCKETS}
        assert bound in RUNBOOKS


def test_availability_counts_every_route_that_answers_with_a_network(tmp_path: Path) -> None:
    patterns: dict[str, set[str]] = {}
    for rule in RECORDS.values():
        for metric, pattern in re.findall(r'(\w+)\{[^}]*route=~"([^"]+)"', rule["expr"]):
            patterns.setdefault(metric, set()).add(pattern)
    (pattern,) = patterns.pop("bireal_http_requests_total")  # all windows look at the same requests
    excused = patterns.pop("bireal_client_deadline_seconds_bucket")
    assert sorted("|".join(excused).split("|")) == sorted(pattern.split("|")), "each route has a bound"
    assert not patterns
    paths = create_app(Settings(model_dir=tmp_path)).openapi()["paths"]
    posts = {path for path, operations in paths.items() if "post" in operations}
    answering = {path for path in posts if re.search(r"^/(compare/)?(classify|depth)$|/infer$", path)}
    assert answering
    assert {path for path in posts if re.fullmatch(pattern, path)} == answering


def test_what_rules_count_is_there_before_it_grows(tmp_path: Path) -> None:
    """`rate` and `increase` miss the first of a series that appears with a value of 1: all begin at 0."""
    app = create_app(load_settings({"model_dir": write_zoo(tmp_path), "fallback": "reference"}))

    async def loaded() -> dict[str, list[dict[str, str]]]:
        async with app.router.lifespan_context(app):
            await until(lambda: app.state.services.registry.readiness().state != "starting")
            found: dict[str, list[dict[str, str]]] = {}
            for family in app.state.services.metrics.registry.collect():
                for sample in family.samples:
                    found.setdefault(sample.name, []).append(sample.labels)
            return found

    exported = asyncio.run(loaded())
    asked = [
        selector
        for rule in rules()
        for selector in selectors_and_labels(promql_parser.parse(rule["expr"])).selectors
        if selector.name.endswith(("_total", "_count", "_bucket")) and not selector.name.startswith("process_")
    ]
    assert {"bireal_fallback_total", "bireal_rejected_total"} <= {selector.name for selector in asked}
    fallen_back = {(labels["model"], labels["ran"]) for labels in exported["bireal_fallback_total"]}
    assert fallen_back == {("tiny-bireal", "reference"), ("tiny-bireal-depth", "reference")}, "whatever is served"
    for selector in asked:
        wanted = [one for one in selector.matchers.matchers if one.name not in TARGET_LABELS]
        assert any(all(fits(one, labels) for one in wanted) for labels in exported.get(selector.name, [])), selector


def fits(matcher: Any, labels: dict[str, str]) -> bool:
    """Whether labels satisfy a matcher of PromQL."""
    value, operation = labels.get(matcher.name, ""), str(matcher.op)
    if operation in {"MatchOp.Re", "MatchOp.NotRe"}:
        return (re.fullmatch(matcher.value, value) is not None) == (operation == "MatchOp.Re")
    assert operation in {"MatchOp.Equal", "MatchOp.NotEqual"}, operation
    return (value == matcher.value) == (operation == "MatchOp.Equal")


@pytest.mark.parametrize("status", ["429", "500", "503", "504"])
def test_every_way_to_fail_is_counted_from_the_first_on_each_route(tmp_path: Path, status: str) -> None:
    app = create_app(Settings(model_dir=tmp_path))
    (pattern,) = set(re.findall(r'http_requests_total\{[^}]*route=~"([^"]+)"', str(RECORDS)))
    (family,) = (one for one in app.state.services.metrics.registry.collect() if one.name == "bireal_http_requests")
    begun = {sample.labels["route"] for sample in family.samples if sample.labels["status"] == status}
    assert begun == {path for path in app.openapi()["paths"] if re.fullmatch(pattern, path)}


def test_each_cause_that_hides_a_consequence_exists() -> None:
    config = yaml.safe_load(ALERTMANAGER.read_text())
    matchers = [matcher for rule in config["inhibit_rules"] for key in rule if key != "equal" for matcher in rule[key]]
    named = {matcher.split("=")[1].strip() for matcher in matchers if matcher.startswith("alertname")}
    assert named
    assert named <= ALERTS.keys()
    severities = {rule["labels"]["severity"] for rule in ALERTS.values()}
    assert {matcher.split("=")[1].strip() for matcher in matchers if matcher.startswith("severity")} <= severities


def test_prometheus_tells_the_alertmanager_of_the_compose_file() -> None:
    (target,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["alerting"]["alertmanagers"][0][
        "static_configs"
    ][0]["targets"]
    name, port = target.split(":")
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert services[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
