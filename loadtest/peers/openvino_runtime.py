"""OpenVINO as a peer: float32, 8 bit, and its BinaryConvolution. Installed with the extra `bench`.

Told nothing, it computes in bfloat16 on CPUs that have it, so there each float network is timed twice: in float32, as
everyone else's, and in that default. Its binary convolution uses the JIT kernel, jit_avx512_u1, only under certain
conditions: it follows a FakeQuantize of 2 levels with equal input bounds and outputs 0 and 1, pad_value is 0 (so that
taps outside the image are ignored), and the weights have type u1, eight per byte with the first in the lowest bit.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from loadtest.measures.interleave import Output, Run
from loadtest.peers.onnx_runtime import EIGHT_BITS, ROUNDING, SIGN_FLIPS, Way, Workload, run_front
from loadtest.peers.photos import Images

NO_BFLOAT16 = "OpenVINO computes in float32 by default on this CPU, as in its other rows."
MISSING = "OpenVINO is not installed: it comes with the extra `bench` (`make .venv/.stamps/bench` in a working copy)."

# The sign is -1 for x <= bound in OpenVINO and for x < 0 here (sign(0) = +1), so the bound is just below zero. It must
# not be a subnormal number, which would be flushed to zero.
_JUST_BELOW_ZERO = -1e-30


def load_openvino() -> ModuleType | None:
    """The package, or None if it is not installed or cannot be loaded."""
    try:
        return importlib.import_module("openvino")
    except ImportError:
        return None


class OpenVinoSession:
    """A compiled model with one output, on one stream.

    Args:
        model: OpenVINO's model; its shapes are made static for `feeds`.
        feeds: the inputs, in order.
        threads: threads per run.
        precision: arithmetic of floating-point layers; None leaves the choice to OpenVINO.
    """

    def __init__(
        self, model: Any, feeds: Sequence[NDArray[np.generic]], threads: int, precision: str | None = "f32"
    ) -> None:
        openvino = importlib.import_module("openvino")
        model.reshape({port: list(feed.shape) for port, feed in zip(model.inputs, feeds, strict=True)})
        options: dict[str, object] = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # like ONNX Runtime
        }
        if precision is not None:
            options["INFERENCE_PRECISION_HINT"] = precision
        self._compiled = openvino.Core().compile_model(model, "CPU", options)
        self._request = self._compiled.create_infer_request()
        self._feeds = [np.ascontiguousarray(feed) for feed in feeds]

    def call(self) -> object:
        """Performs a run; input and output are shared, not copied."""
        return self._request.infer(self._feeds, share_inputs=True, share_outputs=True)

    def output(self) -> Output:
        """Performs a run and returns its output."""
        return np.array(self._request.infer(self._feeds)[0], np.float32)

    def kernels(self, layer_type: str) -> list[str]:
        """Names of the kernels used for layers of a type."""
        found = set()
        for node in self._compiled.get_runtime_model().get_ops():
            facts = node.get_rt_info()
            if facts["layerType"].value == layer_type:
                found.add(str(facts["primitiveType"].value))
        return sorted(found)


def read_onnx(model: onnx.ModelProto) -> Any:
    """Converts an ONNX graph of standard operators to OpenVINO's model."""
    openvino = importlib.import_module("openvino")
    return openvino.Core().read_model(model.SerializeToString())


def binarise(model: Any) -> int:
    """Replaces every convolution of signs, as written by derive.py, with a BinaryConvolution.

    Args:
        model: OpenVINO's model, modified in place.

    Returns:
        The number of replaced convolutions.
    """
    bits: dict[str, Any] = {}
    replaced = 0
    for conv in model.get_ordered_ops():
        if conv.get_type_name() != "Convolution":
            continue
        sign, weight = conv.input_value(0).get_node(), conv.input_value(1).get_node()
        if sign.get_type_name() != "Select" or weight.get_type_name() != "Constant":
            continue
        name = sign.get_friendly_name()
        if name not in bits:
            less = sign.input_value(0).get_node()
            threshold = np.asarray(less.input_value(1).get_node().data, np.float32)
            bits[name] = signs(less.input_value(0), threshold)
        attributes = conv.get_attributes()
        binary = binary_convolution(
            bits[name], np.asarray(weight.data), attributes["strides"], attributes["pads_begin"]
        )
        for reader in conv.output(0).get_target_inputs():
            reader.replace_source_output(binary.output(0))
        replaced += 1
    model.validate_nodes_and_infer_types()
    return replaced


def signs(x: Any, threshold: NDArray[np.float32] | None = None) -> Any:
    """Node with the signs of x as 0 and 1; the threshold is [] or [C,1,1], or None for zero."""
    opset = importlib.import_module("openvino.opset13")
    limit = np.zeros((1, 1, 1, 1), np.float32) if threshold is None else threshold.reshape(1, -1, 1, 1)
    below = np.nextafter(limit, np.float32(-np.inf), dtype=np.float32)
    bound = opset.constant(np.where(np.abs(below) < -_JUST_BELOW_ZERO, np.float32(_JUST_BELOW_ZERO), below))
    zero, one = (opset.constant(np.full((1, 1, 1, 1), value, np.float32)) for value in (0, 1))
    return opset.fake_quantize(x, bound, bound, zero, one, 2)


def binary_convolution(bits: Any, weight: NDArray[np.floating], strides: Any, pads: Any) -> Any:
    """BinaryConvolution node of bits with weights [O,C,K,K] of -1 and +1."""
    openvino = importlib.import_module("openvino")
    opset = importlib.import_module("openvino.opset13")
    packed = np.packbits((weight > 0).reshape(-1), bitorder="little")
    stored = openvino.Tensor(packed, openvino.Shape(list(weight.shape)), openvino.Type.u1)
    constant = openvino.op.Constant(stored, shared_memory=False)  # copied, because it outlives the array
    strides, pads = list(strides), list(pads)
    return opset.binary_convolution(bits, constant, strides, pads, pads, [1, 1], "xnor-popcount", 0.0)


def _open(
    name: str, model: Any, feed: NDArray[np.float32], threads: int, layer_type: str, precision: str | None
) -> Run:
    session = OpenVinoSession(model, [feed], threads, precision)
    engine = f"openvino {', '.join(session.kernels(layer_type))}"
    return Run(name, engine, session.call, session.output)


def _float(way: str, precision: str | None) -> Callable[[Workload, int, Images], Run]:
    def run(workload: Workload, threads: int, images: Images) -> Run:
        front, body = workload.full_parts
        feed = run_front(front, images)
        return _open(f"{workload.pair.full_name}/{way}", read_onnx(body), feed, threads, "Convolution", precision)

    return run


def _int8(workload: Workload, threads: int, images: Images) -> Run:
    feed = run_front(workload.full_parts[0], images)
    return _open(workload.row_name(INT8), read_onnx(workload.full_int8), feed, threads, "Convolution", "f32")


def _binary(way: str, precision: str | None) -> Callable[[Workload, int, Images], Run]:
    def run(workload: Workload, threads: int, images: Images) -> Run:
        front, body = workload.unrounded_parts
        model = read_onnx(body)
        binarise(model)
        feed = run_front(front, images)
        return _open(f"{workload.pair.binary_name}/{way}", model, feed, threads, "BinaryConvolution", precision)

    return run


FP32 = Way("openvino-fp32", "full", ROUNDING, _float("openvino-fp32", "f32"))
INT8 = Way("openvino-int8", "full", EIGHT_BITS, _int8)
BINARY = Way("openvino-binary", "unrounded", SIGN_FLIPS, _binary("openvino-binary", "f32"))
# bfloat16 has 8 significant bits, and rounding to it flips more signs
DEFAULT = Way("openvino-default", "full", EIGHT_BITS, _float("openvino-default", None))
BINARY_DEFAULT = Way("openvino-binary-default", "unrounded", EIGHT_BITS, _binary("openvino-binary-default", None))
WAYS = (FP32, INT8, BINARY)
WITH_BFLOAT16 = (DEFAULT, BINARY_DEFAULT)


def computes_in_bfloat16() -> bool:
    """Whether OpenVINO's default on this CPU is bfloat16, so that `WITH_BFLOAT16` differ from the other ways."""
    capabilities = importlib.import_module("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities
