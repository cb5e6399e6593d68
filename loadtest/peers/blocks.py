"""Single blocks as graphs: for the bit-packed operator, for float convolutions of the same shape, and for OpenVINO.

A block is y = BN(conv(sign(x))) + shortcut, plus the signs of y for the next block. If the shape allows it, the blocks
of a run form a chain in which each block reads the values and signs written by the previous one, as in a network. If
not (stride 2, different channel counts), all blocks convolve the same input and are chained only through the shortcut.
OpenVINO then takes the signs once per run, and our operator in every block. The float block is the convolution with
BatchNorm folded and the shortcut's addition, which ONNX Runtime fuses into it. Float blocks share their weights and
differ only in the bias, so that a run does not include fetching nine megabytes of weights per block from memory. The
small 1-bit weights differ between blocks, because runtimes merge equal nodes.

Weights, scales and inputs are coarse binary fractions, so that no float32 sum is rounded: two correct implementations
give identical outputs, including exact zeros.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from loadtest.measures.interleave import CheckedRun, Output, Run, check
from loadtest.peers import openvino_runtime
from loadtest.peers.onnx_runtime import ROUNDING
from loadtest.peers.shapes import Shape
from service import xnor_op
from service.backends.bits import pack_map, pack_signs, words_per_pixel
from service.backends.derive import derive_reference
from service.backends.session import open_session

Array = NDArray[np.float32]

_IR_VERSION, _OPSET = 8, 17
_EQUAL = 1.0  # minimum correlation, see loadtest.measures.interleave.check


@dataclass(frozen=True)
class Constants:
    """The constants of a block.

    Attributes:
        signs: weights of -1 and +1, float32 [O,C,K,K].
        scale: BatchNorm's scale, float32 [O].
        bias: BatchNorm's bias, float32 [O].
    """

    signs: Array
    scale: Array
    bias: Array


class Blocks:
    """The blocks of one shape and their input, prepared for every way to run them.

    Args:
        shape: geometry of the blocks.
        layers: blocks per run.
        batch: batch size.
        seed: seed of weights and input.
    """

    def __init__(self, shape: Shape, layers: int, batch: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        (channels, out), kernel = shape.channels, shape.kernel
        self.shape, self.batch = shape, batch
        self._layers = [
            Constants(
                signs=rng.choice(np.array([-1, 1], np.float32), (out, channels, kernel, kernel)),
                scale=rng.choice(np.array([1 / 8, 1 / 16], np.float32), out),
                bias=(rng.integers(-8, 9, out) / 16).astype(np.float32),
            )
            for _ in range(layers)
        ]
        self.x: Array = _eighths(rng, (batch, *shape.size, channels))  # NHWC
        # The first shortcut of a chain is its input.
        self.shortcut: Array = self.x if shape.keeps_shape else _eighths(rng, (batch, *shape.out_size, out))

    def expected(self) -> Output:
        """Output of the last block in standard operators, unoptimised: float32 [N,OH,OW,O]."""
        reference = derive_reference(self._packed_model(from_bits=False)).model
        session = open_session(reference.SerializeToString(), name="oracle", intra_op_threads=1, optimise=False)
        feeds = {"shortcut": self.shortcut, "x": self.x}
        (output,) = session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})
        return np.asarray(output)

    def binary(self, name: str, threads: int) -> Run:
        """A run on the bit-packed operator, with packed signs as input and output."""
        session = _open(self._packed_model(from_bits=True), name, threads, xnor_op.library_path())
        shape = (self.batch, *self.shape.out_size, self.shape.channels[1])
        bound = _BoundRun(session, {"bits": pack_map(self.x), "shortcut": self.shortcut}, shape)
        return Run(name, f"bireal operator ({xnor_op.kernel_name()})", bound.call, bound.output)

    def float32(self, name: str, threads: int) -> CheckedRun:
        """A run of ONNX Runtime's float convolution of the same shape, checked against itself without optimisation."""
        model = self._float_model()
        feeds = {"x": _planar(self.x), "shortcut": _planar(self.shortcut)}
        shape = (self.batch, self.shape.channels[1], *self.shape.out_size)
        bound = _BoundRun(_open(model, name, threads), feeds, shape)
        plain = open_session(model.SerializeToString(), name=name, intra_op_threads=1, optimise=False)
        (expected,) = plain.run(None, feeds)
        run = Run(name, "onnxruntime float32", bound.call, bound.output)
        return check(run, np.asarray(expected), against="onnxruntime, unoptimised", min_correlation=ROUNDING)

    def openvino(self, name: str, threads: int) -> Run:
        """A run on OpenVINO's BinaryConvolution; the output is transposed to [N,OH,OW,O] outside the timing."""
        openvino = importlib.import_module("openvino")
        opset = importlib.import_module("openvino.opset13")
        stride, pad = [self.shape.stride] * 2, [self.shape.kernel // 2] * 2
        x = opset.parameter(list(_planar(self.x).shape), openvino.Type.f32)
        feeds = [_planar(self.x)]
        inputs = [x]
        if self.shape.keeps_shape:
            y = x
        else:
            y = opset.parameter(list(_planar(self.shortcut).shape), openvino.Type.f32)
            inputs.append(y)
            feeds.append(_planar(self.shortcut))
        bits = openvino_runtime.signs(x)
        for number, layer in enumerate(self._layers):
            if self.shape.keeps_shape and number > 0:
                bits = openvino_runtime.signs(y)
            conv = openvino_runtime.binary_convolution(bits, layer.signs, stride, pad)
            scale, bias = (opset.constant(value.reshape(1, -1, 1, 1)) for value in (layer.scale, layer.bias))
            y = opset.add(opset.add(opset.multiply(conv, scale), bias), y)
        session = openvino_runtime.OpenVinoSession(openvino.Model([y], inputs), feeds, threads)
        engine = f"openvino {', '.join(session.kernels('BinaryConvolution'))}"
        return Run(name, engine, session.call, lambda: session.output().transpose(0, 2, 3, 1))

    def checked(self, run: Run, expected: Output) -> CheckedRun:
        """Checks that a binary run's output equals the reference's in every element."""
        return check(run, expected, against="derived reference, unoptimised", min_correlation=_EQUAL)

    def _packed_model(self, *, from_bits: bool) -> onnx.ModelProto:
        """The blocks as custom operators, reading packed signs (as timed) or real values (for the reference)."""
        (height, width), (channels, out) = self.shape.size, self.shape.channels
        rows, columns = self.shape.out_size
        graph = _GraphParts()
        y = "shortcut"
        graph.declare(y, [*self.shape.out_size, out], TensorProto.FLOAT, as_input=True)
        bits = "bits"
        bits_shape = [height + 2, width + 2, words_per_pixel(channels)]
        if from_bits:
            graph.declare(bits, bits_shape, TensorProto.INT32, as_input=True)
        else:
            if not self.shape.keeps_shape:
                graph.declare("x", [height, width, channels], TensorProto.FLOAT, as_input=True)
            graph.custom("Pack", ["shortcut" if self.shape.keeps_shape else "x"], [bits])
            graph.declare(bits, bits_shape, TensorProto.INT32)
        for number, layer in enumerate(self._layers):
            name = f"block{number}"
            constants = [
                graph.constant(f"{name}.weight", pack_signs(layer.signs.transpose(0, 2, 3, 1) < 0)),
                graph.constant(f"{name}.scale", layer.scale),
                graph.constant(f"{name}.bias", layer.bias),
            ]
            outputs = [name, f"{name}.bits"]
            attributes = {"channels": channels, "kernel": self.shape.kernel, "stride": self.shape.stride}
            graph.custom("BConv", [bits, *constants, y], outputs, **attributes)
            graph.declare(name, [rows, columns, out], TensorProto.FLOAT)
            graph.declare(outputs[1], [rows + 2, columns + 2, words_per_pixel(out)], TensorProto.INT32)
            y = name
            if self.shape.keeps_shape:
                bits = outputs[1]
        return graph.model(y, [rows, columns, out])

    def _float_model(self) -> onnx.ModelProto:
        """The float convolutions: y = conv(x) + bias + y, NCHW."""
        (channels, out), kernel = self.shape.channels, self.shape.kernel
        graph = _GraphParts()
        graph.declare("x", [channels, *self.shape.size], TensorProto.FLOAT, as_input=True)
        graph.declare("shortcut", [out, *self.shape.out_size], TensorProto.FLOAT, as_input=True)
        y = "shortcut"
        first = self._layers[0]
        weight = graph.constant("weight", first.signs * first.scale.reshape(-1, 1, 1, 1))
        for number, layer in enumerate(self._layers):
            name = f"block{number}"
            bias = graph.constant(f"{name}.bias", layer.bias)
            conv = helper.make_node(
                "Conv",
                ["x", weight, bias],
                [f"{name}.conv"],
                kernel_shape=[kernel, kernel],
                strides=[self.shape.stride] * 2,
                pads=[kernel // 2] * 4,
            )
            graph.nodes += [conv, helper.make_node("Add", [f"{name}.conv", y], [name])]
            y = name
        return graph.model(y, [out, *self.shape.out_size])


class _GraphParts:
    """Collects the parts of a graph; the first axis of every activation is the batch."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._values: list[onnx.ValueInfoProto] = []
        self._constants: list[TensorProto] = []

    def declare(self, name: str, shape: list[int], kind: int, *, as_input: bool = False) -> None:
        value = helper.make_tensor_value_info(name, kind, ["N", *shape])
        (self._inputs if as_input else self._values).append(value)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def custom(self, op: str, inputs: list[str], outputs: list[str], **attributes: int) -> None:
        self.nodes.append(helper.make_node(op, inputs, outputs, outputs[0], None, "bireal", None, **attributes))

    def model(self, output: str, shape: list[int]) -> onnx.ModelProto:
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", *shape])
        inner = [value for value in self._values if value.name != output]
        graph = helper.make_graph(self.nodes, "blocks", self._inputs, [result], self._constants, value_info=inner)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("bireal", 1)]
        return helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=opsets)


class _BoundRun:
    """A session with preallocated inputs and output, because a block's output is large."""

    def __init__(
        self, session: ort.InferenceSession, feeds: Mapping[str, NDArray[np.generic]], shape: tuple[int, ...]
    ) -> None:
        self._session = session
        self._result = np.zeros(shape, np.float32)
        self._values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for value in feeds.values()]
        self._binding = session.io_binding()
        for name, value in zip(feeds, self._values, strict=True):
            self._binding.bind_ortvalue_input(name, value)
        output = session.get_outputs()[0].name
        self._binding.bind_output(output, "cpu", 0, np.float32, shape, self._result.ctypes.data)

    def call(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def output(self) -> Output:
        self._result.fill(np.nan)
        self.call()
        return self._result.copy()


def _open(model: onnx.ModelProto, name: str, threads: int, library: Path | None = None) -> ort.InferenceSession:
    return open_session(model.SerializeToString(), name=name, intra_op_threads=threads, op_library=library)


def _planar(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _eighths(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Multiples of 1/8 from -2 to 2."""
    return (rng.integers(-16, 17, shape) / 8).astype(np.float32)
