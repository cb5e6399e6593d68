"""Writes small models with their cards, as a zoo has them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.backends.weights import count_weights
from service.card import Card


def write_model(folder: Path, model: onnx.ModelProto, *, precision: str = "binary", name: str = "small") -> Card:
    """Writes model.onnx and card.yaml; sizes, classes and task are read off the graph."""
    folder.mkdir(parents=True, exist_ok=True)
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    height, width = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:3])
    output = model.graph.output[0]
    classify = output.name == "logits"
    count = output.type.tensor_type.shape.dim[1].dim_value
    weights = count_weights(model)
    card = Card.model_validate(
        {
            "schema_version": 1,
            "name": name,
            "version": "1",
            "task": "classify" if classify else "depth",
            "precision": precision,
            "full": "twin" if precision == "binary" else None,
            "network": {
                "arch": "resnet",
                "depth": 18,
                "structure": "bireal" if precision == "binary" else "res",
                "method": "bireal" if precision == "binary" else "none",
            },
            "sha256": hashlib.sha256(data).hexdigest(),
            "input": {
                "height": height,
                "width": width,
                "resize_shorter": max(height, width) if classify else None,
                "mean": (0.485, 0.456, 0.406),
                "std": (0.229, 0.224, 0.225),
            },
            "classes": [{"wnid": f"n{i:08d}", "name": f"class {i}"} for i in range(count)] if classify else [],
            "depth": None
            if classify
            else {"max_m": 80.0, "min_m": 1.0, "fx_px": 353.2, "baseline_m": 0.54, "aspect": 3.31},
            "weights": {
                "binary_params": weights.binary_params,
                "real_params": weights.real_params,
                "binary_bytes": weights.binary_bytes,
                "real_bytes": weights.real_bytes,
                "artefact_bytes": len(data),
            },
            "work": {"binary_macs": 1, "real_macs": 1, "bops": 65},
            "stem_precision": "float32",
            "training": {
                "data": "none",
                "terms": "none",
                "recipe": "random weights",
                "command": "none",
                "wall_time_s": 0,
                "hardware": "none",
                "seed": 0,
            },
            "license": "none",
        }
    )
    return card.write(folder)


def float_classifier(
    seed: int, *, size: tuple[int, int] = (24, 20), channels: int = 8, classes: int = 5
) -> onnx.ModelProto:
    """A full-precision graph as the exporter writes one: float16 weights behind Casts, float32 arithmetic."""
    rng = np.random.default_rng(seed)
    conv = rng.standard_normal((channels, 3, 3, 3)).astype(np.float16)
    head = rng.standard_normal((channels, classes)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["conv16"], ["conv"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["nchw", "conv"], ["features"], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("ReduceMean", ["active", "axes"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["head16"], ["head"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["mean", "head"], ["logits"]),
    ]
    constants = [
        numpy_helper.from_array(conv, "conv16"),
        numpy_helper.from_array(head, "head16"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
    ]
    graph = helper.make_graph(
        nodes,
        "full",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *size, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        constants,
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


def images_for(model: onnx.ModelProto, rng: np.random.Generator, count: int) -> np.ndarray:
    """Smooth random pictures (not white noise, which every filter averages away): uint8 [count, H, W, 3]."""
    height, width = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:3])
    coarse = rng.integers(0, 256, (count, -(-height // 8) + 1, -(-width // 8) + 1, 3))
    rough = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)[:, :height, :width]
    return np.clip(rough + rng.integers(-24, 25, rough.shape), 0, 255).astype(np.uint8)
