"""`models`: the models of the folder, whether each variant runs on this machine, and with which kernel."""

import argparse
import json
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from service import xnor_op
from service.api.ops import model_list
from service.card import Card, VariantName
from service.errors import OpUnavailableError
from service.registry import Handle, Registry
from service.settings import Settings, export_kernel


def models(settings: Settings, arguments: argparse.Namespace) -> int:
    """Loads every model once and prints the result. Returns the exit code: 1 if `serve` would not become ready."""
    export_kernel(settings)
    registry = Registry(settings)
    registry.scan()
    total = sum(len(entry.card.variants) for entry in registry.entries())
    with tqdm(total=total, unit="variant", leave=False) as bar:

        def loaded(card: Card, variant: VariantName, handle: Handle | None, seconds: float) -> None:  # noqa: ARG001
            bar.set_postfix_str(f"{card.name} {variant}")
            bar.update()

        registry.observe(loaded)
        registry.load()
    found = registry.readiness()
    document: dict[str, Any] = {
        "model_dir": str(settings.model_dir),
        "ready": found.state == "ready",
        "reasons": list(found.reasons),
        **_kernels(),
        **model_list(registry).model_dump(mode="json"),
    }
    registry.close()
    print(json.dumps(document) if arguments.json else _text(document))
    return 0 if document["ready"] else 1


def _kernels() -> dict[str, Any]:
    """The kernel in use (None if it cannot run), and all kernels that this CPU can run."""
    found: dict[str, Any] = {"kernel": None, "kernels": []}
    with suppress(OpUnavailableError):
        found["kernels"] = xnor_op.usable_kernels()
        found["kernel"] = xnor_op.kernel_name()
    return found


def _text(document: dict[str, Any]) -> str:
    kernel, kernels = document["kernel"] or "none", ", ".join(document["kernels"]) or "none"
    lines = [f"{document['model_dir']}: operator kernel {kernel} of {kernels}"]
    for model in document["models"]:
        default = ", default" if model["default"] else ""
        lines.append(f"{model['name']}@{model['version']}  {model['task']}, {model['precision']}{default}")
        for variant in model["variants"]:
            if variant["ready"]:
                size = sum(variant["memory_bytes"].values()) / 1e6
                lines.append(f"  {variant['variant']:9}  {size:8.2f} MB of weights, {variant['kernel']}")
            else:
                lines.append(f"  {variant['variant']:9}  does not run: {variant['reason']}")
        for metric in model["metrics"]:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in metric["values"].items())
            lines.append(f"  {metric['variant']} on {metric['dataset']} (n = {metric['n']}): {scores}")
    lines += [f"{item['name']}  broken: {item['problem']['detail']}" for item in document["broken"]]
    lines += [f"not ready: {reason}" for reason in document["reasons"]]
    return "\n".join(lines)
