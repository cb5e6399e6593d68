"""The card of an exported model: everything that the service and a reader need to know about it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from pydantic import ValidationError

from models.accounting import cost_of
from models.arch import ArchConfig
from models.arch.depth import MIN_DISPARITY_PX
from models.data.folder import ClassName
from models.data.kitti import WIDTH
from models.data.normalise import MEAN, STD
from models.train.classify import served_shorter
from models.train.depth import FX_BASELINE
from models.train.recipe import CAMERA_LIMIT, CLASSES_LIMIT, Recipe
from service.backends.weights import count_weights
from service.card import CARD_FILE, Card
from service.evaluation import KITTI_BASELINE_M, KITTI_FX_PX

KITTI_ASPECT = 1242 / 375  # aspect ratio of the images, which are scaled anisotropically to 608x160
NETWORK_FX_PX = KITTI_FX_PX[1242] * WIDTH / 1242
MODEL_FILE = "model.onnx"

# Limits on the card of a recipe that states none of its own.
LIMITS = {
    "classify": (CLASSES_LIMIT, "{calibration}"),
    "depth": ("Scenes unlike those of its training data may be far off.", CAMERA_LIMIT),
}


def make_card(
    name: str,
    version: str,
    arch: ArchConfig,
    recipe: Recipe,
    model: onnx.ModelProto,
    *,
    height: int,
    width: int,
    classes: tuple[ClassName, ...],
    stem_precision: str,
    pointwise_precision: str,
    provenance: dict[str, str],
    wall_time_s: float,
    notes: str,
    metrics: list[dict[str, Any]],
    calibration: str = "Probabilities are not calibrated.",
) -> Card:
    """Assemble and validate the card of a model that will be written as ``model.onnx``.

    The shorter side that a classifier's images are scaled to is the recipe's, scaled to this input size, or else the
    input's longer side. ``calibration`` completes the limits of a classifier.

    Raises:
        ValueError: the card would be invalid; the message lists every wrong field.
    """
    content = model.SerializeToString()
    cost = cost_of(arch, height, width)
    depth = arch.task == "depth"
    shorter = served_shorter(recipe, height) or max(height, width)
    document: dict[str, Any] = {
        "schema_version": 1,
        "name": name,
        "version": version,
        "task": arch.task,
        "precision": "binary" if arch.binary else "full",
        "full": (recipe.twin or recipe.init) if arch.binary else None,
        "network": {
            "arch": "resnet",
            "depth": arch.depth,
            "structure": "res" if arch.standard_resnet else arch.structure,
            "method": arch.method,
            "width": arch.width,
        },
        "file": MODEL_FILE,
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": {
            "height": height,
            "width": width,
            "resize_shorter": None if depth else shorter,
            "mean": [v / 255.0 for v in MEAN],
            "std": [v / 255.0 for v in STD],
        },
        "classes": [{"wnid": c.wnid, "name": c.name} for c in classes],
        "depth": {
            "min_m": FX_BASELINE / arch.max_disparity_px,
            "max_m": FX_BASELINE / MIN_DISPARITY_PX,
            "fx_px": NETWORK_FX_PX,
            "baseline_m": KITTI_BASELINE_M,
            "aspect": KITTI_ASPECT,
        }
        if depth
        else None,
        "weights": weights_entry(model, len(content)),
        "work": {"binary_macs": cost.binary_macs, "real_macs": cost.real_macs, "bops": cost.bops},
        "stem_precision": stem_precision if arch.binary else "float32",
        "pointwise_precision": pointwise_precision if arch.binary else "float32",
        "training": {
            "data": recipe.data,
            "terms": recipe.terms,
            "recipe": recipe.name,
            "source": recipe.source,
            "command": provenance["command"],
            "wall_time_s": round(wall_time_s, 1),
            "hardware": provenance["hardware"],
            "seed": recipe.seed,
            "epochs": sum(phase.epochs for phase in recipe.phases) or None,
            "notes": notes,
        },
        "metrics": metrics,
        "limits": [
            limit.format(classes=len(classes), calibration=calibration) for limit in recipe.limits or LIMITS[arch.task]
        ],
        "license": recipe.terms,
    }
    try:
        return Card.model_validate(document)
    except ValidationError as error:  # pydantic's own message has several lines and links
        wrong = [f"{'.'.join(map(str, one['loc'])) or 'card'}: {one['msg']}" for one in error.errors()]
        raise ValueError(f"the model's card would be invalid: {'; '.join(wrong)}") from error


def weights_entry(model: onnx.ModelProto, artefact_bytes: int) -> dict[str, int]:
    """The card's ``weights``, for a model whose file has ``artefact_bytes``."""
    return {**asdict(count_weights(model)), "artefact_bytes": artefact_bytes}


def write_model(card: Card, model: onnx.ModelProto, out: Path) -> Path:
    """Write ``model.onnx`` and ``card.yaml`` into ``out/<name>/<version>`` and return that folder."""
    folder = out / card.name / card.version
    folder.mkdir(parents=True, exist_ok=True)
    replace_files(folder, card, model.SerializeToString())
    return folder


def replace_files(folder: Path, card: Card, content: bytes | None = None) -> None:
    """Replace the model, unless ``content`` is None, and then the card, each in one step by a complete file.

    A service may be reading them. A failure leaves both as they were.
    """
    with TemporaryDirectory(dir=folder, prefix=".part-") as name:
        part = Path(name)
        card.write(part)
        new, old, target = part / card.file, part / "before", folder / card.file
        if content is not None:
            new.write_bytes(content)
            if target.exists():
                shutil.copy2(target, old)
            new.replace(target)
        try:
            (part / CARD_FILE).replace(folder / CARD_FILE)
        except BaseException:
            if old.exists():
                old.replace(target)
            elif content is not None:
                target.unlink()
            raise
