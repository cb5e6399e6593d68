"""The Kubernetes files: strictly valid, hardened, and in step with the service, the image and the rules."""

from __future__ import annotations

import asyncio
import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.kubernetes import rules
from service.settings import Settings
from tests.deploy.exported import exported_samples
from tests.kubernetes.resources import KUBERNETES, ROOT, Resource, UnknownKindError, files, load, validate

REFUSED = (jsonschema.ValidationError, kubernetes_validate.ValidationError)
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
KUSTOMIZATIONS = sorted(KUBERNETES.rglob("kustomization.yaml"))


def one(kind: str, folder: str = "") -> Resource:
    """The resource of a kind, in a folder or anywhere."""
    paths = [path for path in files() if path.is_relative_to(KUBERNETES / folder)]
    (found,) = [resource for path in paths for resource in load(path) if resource["kind"] == kind]
    return found


def pods() -> dict[str, dict[str, Any]]:
    """Everything that describes a pod: the Deployment's template and KServe's predictor."""
    return {
        "Deployment": one("Deployment")["spec"]["template"]["spec"],
        "InferenceService": one("InferenceService")["spec"]["predictor"],
    }


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_resource_is_valid(path: Path) -> None:
    found = load(path)
    assert found
    for resource in found:
        validate(resource)


def test_a_kind_that_nobody_knows_does_not_pass() -> None:
    for unknown in (
        {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceServices", "metadata": {"name": "x"}, "spec": {}},
        {"apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime", "metadata": {"name": "x"}, "spec": {}},
        {"apiVersion": "v1", "kind": "Sevice", "metadata": {"name": "x"}},
    ):
        with pytest.raises(UnknownKindError):
            validate(unknown)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0, "readinesProbe"), {}),
        ("Deployment", ("spec", "replica"), 3),
        ("InferenceService", ("spec", "predictor", "minReplica"), 1),
        ("InferenceService", ("spec", "predictor", "containers", 0, "imagePullPolcy"), "Always"),
        ("InferenceService", ("spec", "predicter"), {}),
        ("ServiceMonitor", ("spec", "endpoints", 0, "intervall"), "15s"),
        ("ServiceMonitor", ("spec", "endpoints", 0, "interval"), "15"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "scrapeTimout"), "10s"),
        ("PodMonitor", ("spec", "endpoints"), []),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "record"), "also"),
        ("HorizontalPodAutoscaler", ("spec", "minReplicas"), "two"),
    ],
)
def test_a_slip_of_the_pen_does_not_pass(kind: str, path: tuple[str | int, ...], value: object) -> None:
    resource = copy.deepcopy(one(kind))
    validate(resource)
    *parents, last = path
    place: Any = resource
    for step in parents:
        place = place[step]
    place[last] = value
    with pytest.raises(REFUSED):
        validate(resource)


def test_the_prometheus_rule_is_that_of_the_rule_files() -> None:
    assert rules.TARGET.read_text() == rules.text(), "run python -m deploy.kubernetes.rules"
    assert yaml.safe_load(rules.text()) == rules.document()


@pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])
class TestPods:
    def test_meets_the_restricted_pod_security_standard(self, kind: str) -> None:
        pod = pods()[kind]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }

    def test_runs_as_the_user_of_the_image(self, kind: str) -> None:
        (user,) = [line.split()[1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line[:5] == "USER "]
        context = pods()[kind]["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user

    def test_a_backup_is_restored_as_the_same_user(self, kind: str) -> None:
        restoring, pod = one("Pod")["spec"], pods()[kind]
        assert restoring["securityContext"] == pod["securityContext"], "or the service could not write to the file"
        assert restoring["containers"][0]["securityContext"] == pod["containers"][0]["securityContext"]

    def test_is_given_time_to_drain(self, kind: str) -> None:
        pod = pods()[kind]
        drain_s = float(environment(kind)["BIREAL_DRAIN_S"])
        probe = pod["containers"][0]["readinessProbe"]
        assert drain_s >= probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
        assert pod["terminationGracePeriodSeconds"] > drain_s + Settings.model_fields["default_timeout_s"].default + 1

    def test_is_asked_for_what_the_service_answers(self, kind: str, tmp_path: Path) -> None:
        from service.app import create_app

        answered = create_app(Settings(model_dir=tmp_path)).openapi()["paths"]
        (container,) = pods()[kind]["containers"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[name]["httpGet"]["path"] in answered
        assert container["ports"][0]["containerPort"] == Settings.model_fields["port"].default

    def test_is_not_restarted_for_want_of_a_model(self, kind: str, tmp_path: Path) -> None:
        """A restart brings no model. It would hide the reasons, cut off repairs, and come before BirealNotReady."""
        answers = asyncio.run(statuses_without_models(tmp_path))
        (container,) = pods()[kind]["containers"]
        probes = ("startupProbe", "livenessProbe", "readinessProbe")
        assert [answers[container[name]["httpGet"]["path"]] for name in probes] == [200, 200, 503]

    def test_sets_only_settings_that_exist(self, kind: str) -> None:
        known = {f"BIREAL_{name.upper()}" for name in Settings.model_fields}
        assert environment(kind).keys() <= known

    def test_takes_its_keys_from_the_secret_that_the_docs_make(self, kind: str) -> None:
        (name,) = re.findall(r"create secret generic (\S+)", (ROOT / "docs/operations.md").read_text())
        (container,) = pods()[kind]["containers"]
        assert {"secretRef": {"name": name, "optional": True}} in container["envFrom"]

    def test_sees_no_variables_of_services(self, kind: str) -> None:
        assert pods()[kind]["enableServiceLinks"] is False

    def test_has_somewhere_to_write(self, kind: str) -> None:
        pod = pods()[kind]
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts.keys() == {"/tmp", "/data"}
        assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}


async def statuses_without_models(folder: Path) -> dict[str, int]:
    """How a service whose folder of models is empty answers whoever looks after it."""
    from service.app import create_app

    app = create_app(Settings(model_dir=folder))
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        async with asyncio.timeout(60):
            while (await client.get("/readyz")).json()["state"] != "failed":  # noqa: ASYNC110  asks until it is so
                await asyncio.sleep(0.05)
        paths = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
        return {path: (await client.get(path)).status_code for path in paths}


def environment(kind: str) -> dict[str, str]:
    """The settings that a pod is given."""
    if kind == "InferenceService":
        return {entry["name"]: entry["value"] for entry in pods()[kind]["containers"][0]["env"]}
    base = yaml.safe_load((KUBERNETES / "base/kustomization.yaml").read_text())
    return dict(literal.split("=", 1) for literal in base["configMapGenerator"][0]["literals"])


def test_everything_selects_the_pods_of_the_deployment() -> None:
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        one("Deployment")["spec"]["selector"]["matchLabels"],
        one("Service")["spec"]["selector"],
        one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one("NetworkPolicy", "base")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
    monitored = one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= one("Service")["metadata"]["labels"].items()
    assert one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == one("Deployment")["metadata"]["name"]


@pytest.mark.parametrize(("folder", "kind"), [("base", "Deployment"), ("kserve", "InferenceService")])
def test_pods_are_reached_by_few_and_reach_nobody(folder: str, kind: str) -> None:
    policy = one("NetworkPolicy", folder)["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    assert {"podSelector": {"matchLabels": {"bireal-serve/client": "true"}}} in rule["from"]
    assert all(peer["podSelector" if "podSelector" in peer else "namespaceSelector"] for peer in rule["from"])
    (container,) = pods()[kind]["containers"]
    assert [port["port"] for port in rule["ports"]] == [port["name"] for port in container["ports"]]


def test_pods_are_spread_over_the_nodes_that_take_them_each_rollout_by_itself() -> None:
    """Otherwise a cordoned node keeps pods pending, and pods of the old version decide where new ones may go."""
    (constraint,) = pods()["Deployment"]["topologySpreadConstraints"]
    assert constraint["nodeTaintsPolicy"] == "Honor"
    assert constraint["matchLabelKeys"] == ["pod-template-hash"]
    assert constraint["labelSelector"]["matchLabels"] == one("Deployment")["spec"]["selector"]["matchLabels"]


def test_the_policy_for_kserve_selects_the_pods_that_kserve_makes() -> None:
    """KServe labels them with the name of their InferenceService."""
    selected = one("NetworkPolicy", "kserve")["spec"]["podSelector"]["matchLabels"]
    assert selected == {"serving.kserve.io/inferenceservice": one("InferenceService")["metadata"]["name"]}


def test_the_adapter_serves_every_metric_that_the_autoscaler_asks_for() -> None:
    """The rule stands in the comment: the adapter belongs to the cluster."""
    path = KUBERNETES / "components/queue-autoscaling/kustomization.yaml"
    text = path.read_text()
    comment = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#   ")]
    ((rule,), (patch,)) = yaml.safe_load("\n".join(comment)), yaml.safe_load(text)["patches"]
    asked = {step["value"]["pods"]["metric"]["name"] for step in yaml.safe_load(patch["patch"])}
    assert {"bireal_queue_depth", "bireal_decode_queue_depth"} <= asked, "fast networks wait for decoding threads only"
    (pattern,) = re.findall(r'__name__=~"([^"]+)"', rule["seriesQuery"])
    assert {name for name in exported_samples() if re.search(pattern, name)} == asked


def test_the_monitor_gives_the_job_the_name_that_the_rules_know() -> None:
    (endpoint,) = one("ServiceMonitor")["spec"]["endpoints"]
    (relabeling,) = endpoint["relabelings"]
    assert (relabeling["targetLabel"], relabeling["replacement"]) == ("job", "bireal")
    assert endpoint["port"] in {port["name"] for port in one("Service")["spec"]["ports"]}


def test_the_monitor_for_kserve_scrapes_its_pods_as_the_other_does() -> None:
    monitor, service = one("PodMonitor")["spec"], one("InferenceService")
    assert monitor["selector"] == one("NetworkPolicy", "kserve")["spec"]["podSelector"], "the pods that KServe makes"
    (endpoint,) = monitor["podMetricsEndpoints"]
    (port,) = service["spec"]["predictor"]["containers"][0]["ports"]
    assert endpoint["port"] == port["name"]
    (other,) = one("ServiceMonitor")["spec"]["endpoints"]
    assert {**endpoint, "port": ""} == {**other, "port": ""}


def test_kserve_knows_its_annotations() -> None:
    """It ignores others without a word. These are constants of its source, pkg/constants/constants.go."""
    known = {"deploymentMode", "autoscalerClass", "metrics", "targetUtilizationPercentage"}
    annotations = one("InferenceService")["metadata"]["annotations"]
    assert annotations.keys() <= {f"serving.kserve.io/{name}" for name in known}
    assert annotations["serving.kserve.io/metrics"] == "cpu"


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_kustomizations_name_files_that_exist_and_this_version(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    for named in (*content.get("resources", ()), *content.get("components", ()), *content.get("configurations", ())):
        assert (path.parent / named).exists(), named
    for image in content.get("images", ()):
        assert image["newTag"] == VERSION


def test_kserve_scales_at_70_percent_of_the_limit_by_a_figure_that_its_webhook_accepts() -> None:
    """KServe rejects a target above 100 % of the request at admission, which its schema does not say."""
    annotations = one("InferenceService")["metadata"]["annotations"]
    target = int(annotations["serving.kserve.io/targetUtilizationPercentage"])
    assert 1 <= target <= 100
    resources = pods()["InferenceService"]["containers"][0]["resources"]
    assert target / 100 * float(resources["requests"]["cpu"]) == pytest.approx(0.7 * float(resources["limits"]["cpu"]))
