"""Ray Serve for real: two nodes, a replica killed, replicas drained, a node killed, and Prometheus finds them all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from loadtest import ray_cluster, ray_trial, stack
from loadtest.pictures import photo_like
from tests.tiny_zoo import write_zoo

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs/benchmarks/ray"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ray_cluster.Cluster]:
    """Two nodes with the applications of deploy/ray/serve.yaml on the tiny zoo."""
    reason = ray_cluster.missing()
    if reason is not None:
        pytest.skip(reason)
    zoo = write_zoo(tmp_path_factory.mktemp("ray") / "zoo")
    with ray_cluster.cluster(ray_trial.configuration(), {"BIREAL_MODEL_DIR": str(zoo)}) as running:
        yield running


@pytest.fixture(scope="module")
def trial(cluster: ray_cluster.Cluster) -> ray_trial.Trial:
    return ray_trial.Trial(cluster)


def test_every_surface_answers(cluster: ray_cluster.Cluster) -> None:
    with httpx.Client(base_url=cluster.url, timeout=30) as client:
        for path, model in (("/classify", "tiny-bireal"), ("/depth", "tiny-bireal-depth")):
            answer = client.post(path, content=photo_like(), headers={"content-type": "image/jpeg"})
            assert (answer.status_code, answer.json()["model"]) == (200, model)
        assert client.post("/compare/depth", content=photo_like()).status_code == 200
        assert client.get("/readyz").json()["ready"] is True
        assert {model["task"] for model in client.get("/models").json()["models"]} == {"classify", "depth"}
        assert client.post("/classify", content=b"no picture").json()["code"] == "unsupported-image"


def test_replicas_are_on_both_nodes(cluster: ray_cluster.Cluster) -> None:
    assert len({replica["node"] for replica in cluster.replicas()}) == 2


def test_prometheus_finds_and_scrapes_every_replica(cluster: ray_cluster.Cluster, tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian and Ubuntu: apt-get install prometheus)")
    found = {replica["target"] for replica in cluster.replicas()}
    assert len(found) >= ray_trial.CLASSIFY_REPLICAS + 1
    discovery = {"url": f"{cluster.url}/metrics-targets/", "refresh_interval": "1s"}
    with stack.prometheus([], tmp_path, discovery=discovery) as address:

        def ready() -> set[str]:
            answer = httpx.get(f"{address}/api/v1/query", params={"query": "bireal_ready == 1"}, timeout=30)
            return {series["metric"]["instance"] for series in answer.json()["data"]["result"]}

        stack.wait_for("Prometheus has scraped every replica", lambda: ready() == found, 30)
        depth = httpx.get(
            f"{address}/api/v1/query",
            params={"query": 'count by (task) (bireal_model_ready{bireal_application="depth"})'},
        )
        assert {series["metric"]["task"] for series in depth.json()["data"]["result"]} == {"depth"}


def test_a_killed_replica_costs_at_most_what_it_was_answering(trial: ray_trial.Trial) -> None:
    found = trial.kill_a_replica()
    assert found.requests > 50
    assert found.lost <= found.clients, found
    assert found.replicas["bireal"][1] >= ray_trial.CLASSIFY_REPLICAS


def test_depth_scales_apart_and_is_drained_without_a_loss(trial: ray_trial.Trial) -> None:
    up = trial.scale_depth()
    assert up.lost == 0, up
    assert up.replicas["depth"][0] == 1
    assert up.replicas["depth"][1] >= 2
    assert up.replicas["bireal"] == [ray_trial.CLASSIFY_REPLICAS] * 2
    down = trial.drain_depth()
    assert down.lost == 0, down
    assert down.replicas["depth"][1] == 1


def test_a_killed_node_costs_at_most_what_was_in_flight(trial: ray_trial.Trial, cluster: ray_cluster.Cluster) -> None:
    found = trial.kill_a_node()
    assert found.requests > 50
    assert found.lost <= found.clients, found
    assert len({replica["node"] for replica in cluster.replicas()}) == 1


def test_the_recorded_trial() -> None:
    document = json.loads((RECORD / "trial.json").read_text())
    assert (RECORD / "README.md").read_text() == ray_trial.page(document)
    findings = {finding["part"]: finding for finding in document["findings"]}
    assert findings["depth is drained to one replica"]["lost"] == 0
    assert findings["a node is killed"]["lost"] <= findings["a node is killed"]["clients"]


def test_the_trial_drives_what_is_deployed() -> None:
    deployed = yaml.safe_load(ray_cluster.CONFIG.read_text())
    tried = ray_trial.configuration()
    for ours, theirs in zip(deployed["applications"], tried["applications"], strict=True):
        assert {**ours, "deployments": None} == {**theirs, "deployments": None}
