"""Builds small ONNX graphs of the custom ops and runs them in pip's onnxruntime."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SOURCE = Path(__file__).resolve().parents[2] / "service" / "xnor_op"
DOMAIN = "bireal"

NO_ARENA_VARIABLE = "BIREAL_TEST_NO_ARENA"
"""Set, every tensor gets memory of its own from malloc: a sanitizer sees where each of them ends."""

Array = NDArray[np.generic]


def library() -> str:
    """Path of the shared library: BIREAL_OP_LIBRARY (a development build) or the installed one."""
    override = os.environ.get("BIREAL_OP_LIBRARY")
    if override:
        return override
    from service.xnor_op import library_path

    return str(library_path())


def kernel_names() -> list[str]:
    """Every kernel in the table that also feeds the library's dispatch (kernels/kernels.inc)."""
    text = (SOURCE / "kernels" / "kernels.inc").read_text(encoding="utf-8")
    return re.findall(r"^BIREAL_KERNEL\((\w+),", text, re.MULTILINE)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: int) -> onnx.NodeProto:
    """A node of the custom domain, named after its operator and first output."""
    return helper.make_node(op, inputs, outputs, domain=DOMAIN, name=f"{op.lower()}_{outputs[0]}", **attributes)


def value(name: str, dtype: int, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    """Declares a tensor; shape None leaves it unknown."""
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, Array] | None = None,
    declared: Sequence[onnx.ValueInfoProto] = (),
) -> bytes:
    """Serialised model of these nodes; constants become initializers."""
    initializers = [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers, value_info=list(declared))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def session(serialized: bytes | str, threads: int = 1) -> ort.InferenceSession:
    """A session of pip's onnxruntime with the custom ops, of a serialised model or of a file by its path."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = NO_ARENA_VARIABLE not in os.environ
    options.register_custom_ops_library(library())
    return ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


def onnx_type(array: Array) -> int:
    """TensorProto data type of an array."""
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def bconv_model(
    bits: Array,
    weight: Array,
    scale: Array,
    bias: Array,
    *,
    channels: int,
    stride: int = 1,
    residual: Array | None = None,
    with_bits: bool = True,
) -> tuple[bytes, dict[str, Array]]:
    """A graph of one BConv and its feeds; see the operator for shapes."""
    out_channels, kernel = weight.shape[0], weight.shape[1]
    names = ["bits", "weight", "scale", "bias"] + (["residual"] if residual is not None else [])
    outputs = ["y"] + (["y_bits"] if with_bits else [])
    bconv = node("BConv", names, outputs, channels=channels, kernel=kernel, stride=stride)
    inputs = [value("bits", TensorProto.INT32, ["N", "Hp", "Wp", bits.shape[3]])]
    feeds = {"bits": bits}
    if residual is not None:
        inputs.append(value("residual", TensorProto.FLOAT, ["N", "OH", "OW", out_channels]))
        feeds["residual"] = residual
    results = [value("y", TensorProto.FLOAT, ["N", "oh", "ow", out_channels])]
    if with_bits:
        results.append(value("y_bits", TensorProto.INT32, ["N", "ohp", "owp", -(-out_channels // 32)]))
    return model([bconv], inputs, results, {"weight": weight, "scale": scale, "bias": bias}), feeds
