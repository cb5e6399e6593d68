"""From a failing request to a message: the real service, the real Prometheus, the real Alertmanager, a webhook.

The shipped rules and routes are used. Only time is compressed: rules are evaluated each second, `for` is seconds, and
groups are sent at once. The webhook is the one thing that an operator adds.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from loadtest import stack
from tests.deploy.traffic import JPEG, photo
from tests.tiny_zoo import colours_graph, write_model, write_zoo

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
ALERTMANAGER = ROOT / "deploy/alertmanager/alertmanager.yml"
FAILING = 40  # requests; the alert asks for at least 20 an hour


def tool(*names: str) -> str:
    """The path of a program, or the test is skipped by that program's name."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{names[0]} is not installed (Debian and Ubuntu: apt-get install prometheus prometheus-alertmanager)")


class Webhook(http.server.ThreadingHTTPServer):
    """What is called when an alert fires; keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.messages: list[dict[str, Any]] = []

    def alerts(self, name: str, status: str) -> list[dict[str, Any]]:
        """What was told of an alert: `firing` or `resolved`."""
        found = [alert for message in list(self.messages) for alert in message["alerts"]]
        return [alert for alert in found if alert["labels"]["alertname"] == name and alert["status"] == status]


class _Receiver(http.server.BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.messages.append(json.loads(body) | {"path": self.path})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def alertmanager(folder: Path, webhook: Webhook) -> Iterator[str]:
    """The address of an Alertmanager with the shipped routes, told where to send."""
    program = tool("prometheus-alertmanager", "alertmanager")
    config = yaml.safe_load(ALERTMANAGER.read_text())
    for receiver in config["receivers"]:
        url = f"http://127.0.0.1:{webhook.server_port}/{receiver['name']}"
        receiver["webhook_configs"] = [{"url": url, "send_resolved": True}]
    quick = {"group_wait": "0s", "group_interval": "1s"}
    for route in (config["route"], *config["route"]["routes"]):
        route |= quick
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    command = [
        program,
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        "--cluster.listen-address=",
    ]
    with stack.listening(command, folder / "alertmanager.log") as address:
        yield address


@contextlib.contextmanager
def prometheus(folder: Path, service_url: str, alertmanager_address: str) -> Iterator[str]:
    """The address of a Prometheus with the shipped rules, in a hurry."""
    program = tool("prometheus")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    for path in sorted(PROMETHEUS.glob(config["rule_files"][0])):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = "15s" if rule.get("alert") == "BirealTargetDown" else "1s"  # not at one slow scrape
        (folder / "rules").mkdir(exist_ok=True)
        (folder / "rules" / path.name).write_text(yaml.safe_dump(rules))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [alertmanager_address]}]}]
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "bireal")
    del job["dns_sd_configs"]  # no compose network here
    job["static_configs"] = [{"targets": [service_url.removeprefix("http://")]}]
    config["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--rules.alert.resend-delay=1s",
    ]
    with stack.listening(command, folder / "prometheus.log") as address:
        yield f"http://{address}"


def scrapes(address: str) -> int:
    """How often the service was scraped."""
    answer = httpx.get(f"{address}/api/v1/query", params={"query": 'count_over_time(up{job="bireal"}[5m])'}, timeout=30)
    found = answer.json()["data"]["result"]
    return int(found[0]["value"][1]) if found else 0


def ask(address: str, query: str) -> float:
    """The one value of a query."""
    answer = httpx.get(f"{address}/api/v1/query", params={"query": query}, timeout=30)
    (found,) = answer.json()["data"]["result"]
    return float(found["value"][1])


def suppressed(address: str, name: str) -> bool:
    """Whether Alertmanager holds an alert back because of another."""
    alerts = httpx.get(f"http://{address}/api/v2/alerts", timeout=30).json()
    found = [alert["status"] for alert in alerts if alert["labels"]["alertname"] == name]
    return bool(found) and all(status["state"] == "suppressed" and status["inhibitedBy"] for status in found)


def test_failures_reach_the_pager_with_a_runbook(tmp_path: Path) -> None:
    for name in ("prometheus", "prometheus-alertmanager"):
        tool(name, name.removeprefix("prometheus-"))
    large = photo("blue", (3000, 2000))
    zoo = write_zoo(tmp_path / "zoo")
    write_model(zoo, "torn", colours_graph(), task="classify")
    (zoo / "torn/1/model.onnx").write_bytes(b"no graph")  # a model that fails whoever asks for it
    webhook = Webhook()
    threading.Thread(target=webhook.serve_forever, daemon=True).start()
    options = ["--model-dir", zoo, "--default-classify-model", "tiny-colours", "--drain-s", 0]
    try:
        with (
            stack.service([*options, "--fallback", "reference"], log=tmp_path / "service.log") as service,
            alertmanager(tmp_path, webhook) as managing,
            prometheus(tmp_path, service.url, managing) as watching,
            httpx.Client(base_url=service.url, timeout=30) as client,
        ):
            assert client.post("/classify?variant=full", content=photo("red"), headers=JPEG).status_code == 200

            def hurry_once() -> None:
                """Has a deadline pass: decoding takes longer. Where the upload already did, once more."""
                hurried = JPEG | {"x-timeout-ms": "3"}
                while (
                    answer := client.post("/classify?variant=full", content=large, headers=hurried)
                ).status_code != 504:
                    assert answer.status_code in {200, 408}, answer.text

            def wait_for_scrapes() -> None:
                before = scrapes(watching)
                stack.wait_for("the service was scraped thrice", lambda: scrapes(watching) >= before + 3, 30)

            wait_for_scrapes()
            for _ in range(FAILING):
                hurry_once()
            wait_for_scrapes()
            assert ask(watching, "job:bireal_slo_excused:rate5m") > 0
            # no request is left that counts, or none of them failed
            burnt = ask(watching, "sum(job:bireal_slo_unavailable:ratio_rate5m) or vector(0)")
            assert burnt == 0, "nobody promised to be that fast"
            assert not webhook.alerts("BirealAvailabilityBurnsFast", "firing")

            for _ in range(FAILING):
                assert client.post("/classify?model=torn", content=photo("red"), headers=JPEG).status_code == 503
            stack.wait_for(
                "the burn of the error budget reached the webhook",
                lambda: bool(webhook.alerts("BirealAvailabilityBurnsFast", "firing")),
                60,
            )
            # A budget that burns fast burns slowly, too: one message is enough.
            stack.wait_for(
                "the slow burn is hidden by the fast one",
                lambda: suppressed(managing, "BirealAvailabilityBurnsSlowly"),
                60,
            )
            assert not webhook.alerts("BirealTargetDown", "firing")

            assert service.pid is not None
            os.kill(service.pid, signal.SIGSTOP)  # hangs: the port is open and nobody answers
            stack.wait_for(
                "the hanging target reached the webhook",
                lambda: bool(webhook.alerts("BirealTargetDown", "firing")),
                60,
            )
            os.kill(service.pid, signal.SIGCONT)
            stack.wait_for("the end of it, too", lambda: bool(webhook.alerts("BirealTargetDown", "resolved")), 60)
    finally:
        webhook.shutdown()
        webhook.server_close()

    (burn, *_) = webhook.alerts("BirealAvailabilityBurnsFast", "firing")
    assert burn["labels"] == {
        "alertname": "BirealAvailabilityBurnsFast",
        "job": "bireal",
        "severity": "critical",
        "slo": "availability",
    }
    assert burn["annotations"]["runbook"] == "docs/runbooks.md#birealavailabilityburnsfast"
    assert "get no answer" in burn["annotations"]["summary"]
    (down, *_) = webhook.alerts("BirealTargetDown", "firing")
    assert down["labels"]["instance"] == service.url.removeprefix("http://")
    paths = {message["path"] for message in webhook.messages for alert in message["alerts"] if alert == burn}
    assert paths == {"/pager"}, "critical alerts go to the pager"
