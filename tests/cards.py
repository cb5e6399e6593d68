"""Cards for tests that need one and no model file: `classify_card()` and `depth_card()`, any field replaceable."""

import copy
from typing import Any

from service.card import Card

_CLASSIFY: dict[str, Any] = {
    "schema_version": 1,
    "name": "bireal18-test",
    "version": "1",
    "task": "classify",
    "precision": "binary",
    "full": "resnet18-test",
    "network": {"arch": "resnet", "depth": 18, "structure": "bireal", "method": "bireal"},
    "file": "model.onnx",
    "sha256": "0" * 64,
    "input": {
        "height": 56,
        "width": 56,
        "resize_shorter": 64,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "classes": [
        {"wnid": "n02123045", "name": "tabby cat"},
        {"wnid": "n02086240", "name": "Shih-Tzu"},
        {"wnid": "n04552348", "name": "warplane"},
    ],
    "weights": {
        "binary_params": 10_000,
        "real_params": 500,
        "binary_bytes": 1_250,
        "real_bytes": 2_000,
        "artefact_bytes": 4_000,
    },
    "work": {"binary_macs": 6_400, "real_macs": 100, "bops": 12_800},
    "stem_precision": "float32",
    "training": {
        "data": "made for tests",
        "terms": "none",
        "recipe": "none",
        "command": "none",
        "wall_time_s": 0.0,
        "hardware": "none",
        "seed": 1,
        "epochs": 2,
    },
    "metrics": [
        {"dataset": "test-dev", "variant": "binary", "n": 200, "values": {"top1": 0.4, "top5": 0.7}},
        {"dataset": "test-dev", "variant": "reference", "n": 100, "values": {"top1": 0.41}},
    ],
    "limits": ["Never trained."],
    "license": "none",
}

_DEPTH_CHANGES: dict[str, Any] = {
    "name": "bireal50-test-depth",
    "task": "depth",
    "full": "resnet50-test-depth",
    "input": {"height": 16, "width": 60, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "classes": [],
    "depth": {"max_m": 80.0, "min_m": 1.0, "fx_px": 34.855, "baseline_m": 0.5327, "aspect": 3.312},
    "metrics": [],
}

_FULL_CHANGES: dict[str, Any] = {
    "name": "resnet18-test",
    "precision": "full",
    "full": None,
    "network": {"arch": "resnet", "depth": 18, "structure": "res", "method": "none"},
    "weights": {
        "binary_params": 0,
        "real_params": 10_500,
        "binary_bytes": 0,
        "real_bytes": 42_000,
        "artefact_bytes": 21_500,
    },
    "work": {"binary_macs": 0, "real_macs": 6_500, "bops": 416_000},
    "metrics": [{"dataset": "test-dev", "variant": "full", "n": 200, "values": {"top1": 0.5}}],
}


def card_document(**changes: Any) -> dict[str, Any]:
    """A classifier's card as YAML would give it; `input={"height": 8}` replaces fields inside a part, too."""
    document = copy.deepcopy(_CLASSIFY)
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(document.get(name), dict):
            document[name] = {**document[name], **value}
        else:
            document[name] = value
    return document


def classify_card(**changes: Any) -> Card:
    """A binary classifier's card."""
    return Card.model_validate(card_document(**changes))


def full_card() -> Card:
    """Its full-precision twin's card."""
    return Card.model_validate({**_CLASSIFY, **_FULL_CHANGES})


def depth_card(**changes: Any) -> Card:
    """A binary depth model's card; changes replace fields inside `depth`, `input` and other parts, too."""
    document = {**copy.deepcopy(_CLASSIFY), **copy.deepcopy(_DEPTH_CHANGES)}
    for name, value in changes.items():
        inner = document.get(name)
        document[name] = {**inner, **value} if isinstance(value, dict) and isinstance(inner, dict) else value
    return Card.model_validate(document)
