"""What kubectl makes of the overlays; skipped by name where there is neither kubectl nor kustomize."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.kubernetes.resources import KUBERNETES, Resource, validate

CORE = {"ServiceAccount", "ConfigMap", "Service", "Deployment", "NetworkPolicy"}
KINDS = {
    "base": CORE | {"HorizontalPodAutoscaler", "PodDisruptionBudget"},
    "overlays/small": CORE | {"Namespace"},
    "overlays/production": CORE
    | {"Namespace", "HorizontalPodAutoscaler", "PodDisruptionBudget", "ServiceMonitor", "PrometheusRule"},
    "kserve": {"InferenceService", "Namespace", "NetworkPolicy", "PodMonitor", "PrometheusRule"},
}


def render(name: str) -> dict[str, Resource]:
    """The resources of an overlay by kind, as they would be sent to the cluster."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            run = subprocess.run(
                [*command, KUBERNETES / name], capture_output=True, text=True, timeout=120, check=False
            )
            assert run.returncode == 0, run.stderr
            return {resource["kind"]: resource for resource in yaml.safe_load_all(run.stdout)}
    pytest.skip("neither kustomize (4.5.5 or newer) nor kubectl (1.25 or newer) is installed")


@pytest.mark.parametrize("name", KINDS)
def test_renders_to_valid_resources(name: str) -> None:
    found = render(name)
    assert found.keys() == KINDS[name]
    for resource in found.values():
        validate(resource)


@pytest.mark.parametrize("name", ["overlays/small", "overlays/production", "kserve"])
def test_everything_lands_in_the_namespace(name: str) -> None:
    for kind, resource in render(name).items():
        if kind != "Namespace":
            assert resource["metadata"]["namespace"] == "bireal"


@pytest.mark.parametrize("name", KINDS)
def test_the_image_has_a_tag(name: str) -> None:
    found = render(name)
    pod = found["InferenceService"]["spec"]["predictor"] if name == "kserve" else deployed(found)
    assert pod["containers"][0]["image"].rpartition(":")[2] == "0.1.0"


def deployed(found: dict[str, Resource]) -> dict[str, Any]:
    """The pod of the Deployment."""
    pod: dict[str, Any] = found["Deployment"]["spec"]["template"]["spec"]
    return pod


def test_settings_reach_the_pod_by_a_name_that_changes_with_them() -> None:
    found = render("base")
    name = found["ConfigMap"]["metadata"]["name"]
    assert name != "bireal-serve"
    assert deployed(found)["containers"][0]["envFrom"][0] == {"configMapRef": {"name": name}}


def test_the_small_overlay_runs_one_replica_on_one_core() -> None:
    found = render("overlays/small")
    assert found["Deployment"]["spec"]["replicas"] == 1
    assert deployed(found)["containers"][0]["resources"]["limits"]["cpu"] == "1"


def test_production_scales_by_cpu_and_queues() -> None:
    found = render("overlays/production")
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 20)
    by_cpu, *by_queues = scaler["metrics"]
    assert by_cpu["resource"]["name"] == "cpu"
    waiting = {"bireal_queue_depth", "bireal_decode_queue_depth"}  # the first is 0 for fast networks
    assert {metric["pods"]["metric"]["name"] for metric in by_queues} == waiting
    assert "replicas" not in found["Deployment"]["spec"], "the autoscaler decides"
    assert deployed(found)["topologySpreadConstraints"][0]["whenUnsatisfiable"] == "DoNotSchedule"
