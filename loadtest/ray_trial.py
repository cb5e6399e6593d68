"""Failure test of Ray Serve: `python -m loadtest.ray_trial` starts two nodes, sends load, and kills parts of them.

Counts the requests that clients lose when a replica dies, when replicas are drained, and when a node dies, and checks
that depth scales independently of classification. `make ray` installs the requirements.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtest.machine import describe_machine
from loadtest.options import ended_by_sigterm, progress
from loadtest.pictures import photo_like
from loadtest.ray_cluster import CONFIG, WORKER, Cluster, Load, cluster, load, missing
from loadtest.records.schema import LOST_COMMITS
from loadtest.stack import ROOT, StackError, wait_for
from models.command_line import Parser, expects

FOLDER = ROOT / "docs" / "benchmarks" / "ray"
SCALE_S = 40.0
_HEAD = """Written by `python -m loadtest.ray_trial --record` from [trial.json](trial.json). Two nodes on one machine,
Serve's proxy on the first; clients send without a pause, and nothing is sent a second time."""
CLASSIFY_REPLICAS = 3


@dataclass(frozen=True)
class Finding:
    """The result of one part of the trial.

    Attributes:
        part: what was done.
        clients: number of clients, which send continuously.
        requests: requests sent.
        lost: requests not answered with 200; there are no retries.
        statuses: number of responses by status; 0 is a broken connection.
        slowest_s: longest time of a request.
        replicas: replicas of `bireal` and `depth`, before and after.
    """

    part: str
    clients: int
    requests: int
    lost: int
    statuses: dict[str, int]
    slowest_s: float
    replicas: dict[str, list[int]]


def configuration() -> dict[str, Any]:
    """deploy/ray/serve.yaml with one proxy, three replicas for classification, and fast autoscaling."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["proxy_location"] = "HeadOnly"  # both nodes share this machine's port
    quick = {"upscale_delay_s": 1, "downscale_delay_s": 3, "metrics_interval_s": 1, "look_back_period_s": 2}
    scaling = {
        "bireal": {"min_replicas": CLASSIFY_REPLICAS, "max_replicas": CLASSIFY_REPLICAS},
        "depth": {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 1, **quick},
    }
    for application in config["applications"]:
        for deployment in application.get("deployments", ()):
            deployment["autoscaling_config"] |= scaling[application["name"]]
    return config


class Trial:
    """The parts of the trial, on a running cluster.

    Args:
        running: the cluster.
    """

    def __init__(self, running: Cluster) -> None:
        self._cluster = running
        self._image = photo_like(120, 90)

    def kill_a_replica(self, seconds: float = 6.0) -> Finding:
        """Sends SIGKILL to a replica and waits until Serve has replaced it."""

        def act(_: Load) -> None:
            victim = self._cluster.replicas("bireal")[0]
            os.kill(int(victim["pid"]), signal.SIGKILL)
            time.sleep(seconds)
            self._until("Serve has replaced the replica", lambda: self._count("bireal") >= CLASSIFY_REPLICAS)

        return self._under_load("a replica is killed", "/classify", 4, act)

    def scale_depth(self) -> Finding:
        """Sends depth requests from so many clients that one replica is not enough."""

        def act(_: Load) -> None:
            self._until("depth has more replicas", lambda: self._count("depth") >= 2)

        return self._under_load("depth scales up", "/depth", 8, act)

    def drain_depth(self) -> Finding:
        """Sends depth requests from one client, so that the surplus replicas are drained during its requests."""

        def act(_: Load) -> None:
            self._until("depth is back at one replica", lambda: self._count("depth") == 1)

        return self._under_load("depth is drained to one replica", "/depth", 1, act)

    def kill_a_node(self, seconds: float = 4.0) -> Finding:
        """Sends SIGKILL to every process of the second node at once."""

        def act(_: Load) -> None:
            self._cluster.kill_node(WORKER)
            time.sleep(seconds)
            whole = {"bireal": CLASSIFY_REPLICAS, "depth": 1}
            self._until(
                "Serve has replaced the node's replicas",
                lambda: all(self._count(name) >= count for name, count in whole.items()),
            )
            time.sleep(1)

        return self._under_load("a node is killed", "/classify", 4, act)

    def _under_load(self, part: str, path: str, clients: int, act: Callable[[Load], None]) -> Finding:
        progress(part)
        before = self._counts()
        with load(self._cluster.url, path, self._image, clients) as found:
            time.sleep(2)
            act(found)
        after = self._counts()
        return Finding(
            part=part,
            clients=clients,
            requests=sum(found.statuses.values()),
            lost=found.lost,
            statuses={str(status): count for status, count in sorted(found.statuses.items())},
            slowest_s=round(found.slowest_s, 3),
            replicas={name: [before[name], after[name]] for name in before},
        )

    def _counts(self) -> dict[str, int]:
        return {name: self._count(name) for name in ("bireal", "depth")}

    def _count(self, application: str) -> int:
        return len(self._cluster.replicas(application))

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        wait_for(what, condition, SCALE_S)


@expects(StackError, OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns the exit code: 1 if draining or scaling lost a request, 2 without Ray."""
    parser = Parser(prog="python -m loadtest.ray_trial", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--record", action="store_true", help="write document and table to docs/benchmarks/ray")
    parser.add_argument("--render", action="store_true", help="only regenerate the table from the record")
    arguments = parser.parse_args(argv)
    if arguments.render:
        render()
        return 0
    reason = missing()
    if reason is not None:
        raise StackError(reason)
    with ended_by_sigterm():
        document = run({})
    if arguments.record:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / "trial.json").write_text(json.dumps(document, indent=1) + "\n")
        render()
    print(json.dumps(document, indent=1) if arguments.json else page(document))
    graceful = [finding for finding in document["findings"] if not finding["part"].endswith("killed")]
    return int(any(finding["lost"] for finding in graceful))


def run(variables: Mapping[str, str]) -> dict[str, Any]:
    """Runs the whole trial.

    Args:
        variables: environment variables of the replicas.

    Raises:
        StackError: the cluster does not start or does not recover.
    """
    machine = describe_machine()
    began = time.monotonic()
    with cluster(configuration(), variables) as running:
        up_s = time.monotonic() - began
        trial = Trial(running)
        findings = [trial.kill_a_replica(), trial.scale_depth(), trial.drain_depth(), trial.kill_a_node()]
    return {
        "machine": machine.model_dump(mode="json"),
        "ray": _ray_version(),
        "up_s": round(up_s, 1),
        "findings": [asdict(finding) for finding in findings],
    }


def render(folder: Path = FOLDER) -> None:
    """Regenerates the table from the record."""
    (folder / "README.md").write_text(page(json.loads((folder / "trial.json").read_text())))


def page(document: Mapping[str, Any]) -> str:
    """The record as a page."""
    machine = document["machine"]
    lines = [
        "# Ray Serve under failures",
        "",
        _HEAD,
        "",
        "| what is done | clients | requests | lost | statuses | slowest s | replicas of bireal | of depth |",
        "|---|---:|---:|---:|---|---:|---|---|",
    ]
    for finding in document["findings"]:
        statuses = ", ".join(f"{status}: {count}" for status, count in finding["statuses"].items())
        replicas = [" to ".join(map(str, finding["replicas"][name])) for name in ("bireal", "depth")]
        lines.append(
            f"| {finding['part']} | {finding['clients']} | {finding['requests']} | {finding['lost']} | {statuses} | "
            f"{finding['slowest_s']:.2f} | {replicas[0]} | {replicas[1]} |"
        )
    commit = f"{machine['commit']}{' (not in this history)' if machine['commit'] in LOST_COMMITS else ''}"
    lines += [
        "",
        f"{machine['cpu']}, {machine['usable_cpus']} CPUs, kernel {machine['isa']}, Ray {document['ray']}, commit",
        f"{commit}, {machine['date']}. From nothing to every application ready: {document['up_s']:.0f} s.",
        "",
    ]
    return "\n".join(lines)


def _ray_version() -> str:
    found = sorted((ROOT / ".venv-ray").glob("lib/python*/site-packages/ray-*.dist-info"))
    return found[0].name.removeprefix("ray-").removesuffix(".dist-info") if found else "unknown"


if __name__ == "__main__":
    sys.exit(main())
