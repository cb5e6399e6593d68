"""A small zoo, made in a second: real ONNX files with real cards, for tests that need a service with models.

* `tiny-colours` (full precision) names the colour of a picture: its logits are the mean red, green and blue, so that a
  test knows the right answer without trained weights.
* `tiny-bireal` is its binary "twin": packed binary convolutions with random weights.
* `tiny-ramp` (full precision depth) answers 2 m at the left edge to 50 m at the right, times the picture's brightness.
* `tiny-bireal-depth` is its binary twin, random again.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.card import Card
from tests.backends.graphs import PackedGraphBuilder, bireal18_like

COLOURS = [("n00000001", "red"), ("n00000002", "green"), ("n00000003", "blue")]
CLASSIFY_SIZE = (32, 32)
DEPTH_SIZE = (24, 80)
NEAR_M, FAR_M = 2.0, 50.0

_TRAINING = {
    "data": "none",
    "terms": "none",
    "recipe": "made by hand",
    "command": "none",
    "wall_time_s": 0,
    "hardware": "any",
    "seed": 0,
    "notes": "for tests",
}


def colours_graph() -> onnx.ModelProto:
    """Image u8 [N,H,W,3] -> logits [N,3]: ten times the mean of each channel, 0..1."""
    height, width = CLASSIFY_SIZE
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", height, width, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(COLOURS)])
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "weight", "bias"], ["logits"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
        numpy_helper.from_array(np.eye(3, dtype=np.float32) * np.float32(10 / 255), "weight"),
        numpy_helper.from_array(np.zeros(3, np.float32), "bias"),
    ]
    return _model(nodes, image, logits, constants)


def ramp_graph() -> onnx.ModelProto:
    """Image u8 [N,H,W,3] -> depth [N,H,W]: a ramp from left to right, scaled by the brightness (0.5 .. 1)."""
    height, width = DEPTH_SIZE
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", height, width, 3])
    depth = helper.make_tensor_value_info("depth", TensorProto.FLOAT, ["N", height, width])
    ramp = np.tile(np.linspace(NEAR_M, FAR_M, width, dtype=np.float32), (1, height, 1))
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["grey"], keepdims=0),
        helper.make_node("Mul", ["grey", "half"], ["dimmed"]),
        helper.make_node("Add", ["dimmed", "floor"], ["gain"]),
        helper.make_node("Mul", ["gain", "ramp"], ["depth"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([3], np.int64), "axes"),
        numpy_helper.from_array(np.float32(0.5 / 255), "half"),
        numpy_helper.from_array(np.float32(0.5), "floor"),
        numpy_helper.from_array(ramp, "ramp"),
    ]
    return _model(nodes, image, depth, constants)


def binary_depth_graph() -> onnx.ModelProto:
    """Packed: a stem of stride 2, two binary 3x3 convolutions, and the head that doubles the size."""
    g = PackedGraphBuilder(2, *DEPTH_SIZE)
    x = g.stem(32, stride=2, pool=0)
    for name in ("layer1.0", "layer1.1"):
        x = g.bconv(x, name, 32, residual=x)
    return g.depth_head(x)


def _model(nodes, image, output, constants) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tiny", [image], [output], constants)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


def write_model(zoo: Path, name: str, model: onnx.ModelProto, *, version: str = "1", **card: Any) -> Path:
    """Writes one model with its card into `<zoo>/<name>/<version>/` and returns that folder."""
    folder = zoo / name / version
    folder.mkdir(parents=True)
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    binary = card.get("full") is not None
    task = card["task"]
    height, width = CLASSIFY_SIZE if task == "classify" else DEPTH_SIZE
    document: dict[str, Any] = {
        "schema_version": 1,
        "name": name,
        "version": version,
        "precision": "binary" if binary else "full",
        "network": {
            "arch": "resnet",
            "depth": 18 if task == "classify" else 50,
            "structure": "bireal",
            "method": "bireal" if binary else "none",
        },
        "sha256": hashlib.sha256(data).hexdigest(),
        "input": {"height": height, "width": width, "mean": [0.5] * 3, "std": [0.25] * 3},
        "weights": {
            "binary_params": 8000 if binary else 0,
            "real_params": 1000,
            "binary_bytes": 1000 if binary else 0,
            "real_bytes": 4000 if binary else 36000,
            "artefact_bytes": len(data),
        },
        "work": {"binary_macs": 64_000 if binary else 0, "real_macs": 1000, "bops": 128_000},
        "stem_precision": "float32",
        "training": _TRAINING,
        "license": "CC0-1.0",
        **card,
    }
    if task == "classify":
        document["input"]["resize_shorter"] = 36
        document.setdefault("classes", [{"wnid": wnid, "name": label} for wnid, label in COLOURS])
        score = {"top1": 0.5 if binary else 0.75, "top5": 1.0}
    else:
        document["depth"] = {"min_m": 1.0, "max_m": 80.0, "fx_px": 50.0, "baseline_m": 0.5327, "aspect": width / height}
        score = {"abs_rel": 0.25, "delta1": 0.625}
    document["metrics"] = [{"dataset": "tiny-dev", "variant": "binary" if binary else "full", "n": 8, "values": score}]
    Card.model_validate(document).write(folder)
    return folder


def write_zoo(zoo: Path) -> Path:
    """Writes the four models and returns the zoo's folder."""
    write_model(zoo, "tiny-colours", colours_graph(), task="classify")
    packed = bireal18_like(1, size=CLASSIFY_SIZE, widths=(32, 64), blocks=1, classes=len(COLOURS))
    write_model(zoo, "tiny-bireal", packed, task="classify", full="tiny-colours")
    write_model(zoo, "tiny-ramp", ramp_graph(), task="depth")
    write_model(zoo, "tiny-bireal-depth", binary_depth_graph(), task="depth", full="tiny-ramp")
    return zoo
