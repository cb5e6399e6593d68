"""Kubernetes resources held against strict schemas: a kind or a field that nobody knows fails.

Kubernetes' own kinds by kubernetes-validate, which carries their schemas; the kinds of operators by the schemas beside
this file, which list what this project uses of them.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the library's own imports
    import kubernetes_validate

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
SCHEMAS = Path(__file__).with_name("schemas")
VERSIONS = ("1.30", "1.34")

Resource = dict[str, Any]

# What KServe adds to the fields of a pod.
KSERVE_FIELDS = {
    "minReplicas",
    "maxReplicas",
    "timeout",
    "containerConcurrency",
    "scaleTarget",
    "scaleMetric",
    "canaryTrafficPercent",
}


class UnknownKindError(Exception):
    """There is no schema for a kind: nothing may pass unseen."""


def load(path: Path) -> list[Resource]:
    """The resources of a file."""
    return [resource for resource in yaml.safe_load_all(path.read_text()) if resource]


def files() -> list[Path]:
    """Every file that holds resources, and not kustomize's own."""
    found = sorted(KUBERNETES.rglob("*.yaml"))
    return [path for path in found if path.name not in {"kustomization.yaml", "images.yaml"}]


def own_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """The schemas beside this file, by version and kind."""
    schemas = [json.loads(path.read_text()) for path in sorted(SCHEMAS.glob("*.json"))]
    return {
        (schema["properties"]["apiVersion"]["const"], schema["properties"]["kind"]["const"]): schema
        for schema in schemas
    }


def validate(resource: Resource) -> None:
    """Passes what is right.

    Raises:
        UnknownKindError: no schema knows the kind.
        jsonschema.ValidationError: a field is wrong or unknown; kubernetes-validate's own error is one, too.
    """
    schema = own_schemas().get((resource.get("apiVersion", ""), resource.get("kind", "")))
    if schema is not None:
        jsonschema.validate(resource, schema, cls=jsonschema.Draft202012Validator)
        if resource["kind"] == "InferenceService":
            _validate_predictor(resource["spec"]["predictor"])
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError as error:
            raise UnknownKindError(f"{resource.get('apiVersion')} {resource.get('kind')}") from error


def _validate_predictor(predictor: dict[str, Any]) -> None:
    """Checks the fields that a predictor shares with a pod."""
    spec = {name: value for name, value in predictor.items() if name not in KSERVE_FIELDS}
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": spec})
