"""A small ONNX graph writer: names, initialisers, declared shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.binarize.functional import LEAKY_SLOPE
from service.backends.dialect import DOMAIN, VERSION

OPSET = 17
IR_VERSION = 8
BATCH = "N"  # symbolic batch dimension
LARGE = 256  # arrays with fewer weights are not stored as float16

Shape = tuple[int | str, ...]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tensor:
    """A value of the graph: its name and its shape, with a symbolic batch dimension."""

    name: str
    shape: Shape

    def size(self, axis: int) -> int:
        """Length of an axis other than the batch."""
        length = self.shape[axis]
        assert isinstance(length, int)
        return length


@dataclass(frozen=True)
class Stream:
    """Activations between layers.

    Attributes:
        values: real values, [N,H,W,C] in a packed graph and [N,C,H,W] in a full-precision one.
        bits: packed signs of the values, if the operator before was told to emit them.
    """

    values: Tensor
    bits: Tensor | None = None


@dataclass(frozen=True)
class After:
    """What a layer's last operator adds to the layer's output, and whether it packs the signs of the sum.

    Attributes:
        residual: a tensor of the output's shape.
        bias: one number per output channel, or one for all.
        bits: whether to emit the packed signs of the sum for the next layer (packed graphs only).
    """

    residual: Tensor | None = None
    bias: Array | float = 0.0
    bits: bool = False


def halved(size: int) -> int:
    """Output size of stride 2 with the paddings used here: ceil(size / 2)."""
    return (size + 1) // 2


def strided(size: int, stride: int) -> int:
    """Output size of stride 1 or 2 with the paddings used here."""
    return halved(size) if stride == 2 else size


@dataclass
class GraphBuilder:
    """Collects nodes and initialisers. It declares the shape of every value, which in-place residuals depend on.

    Attributes:
        half: store large real-valued initialisers as float16 with a Cast, which the runtime folds at load time. A
            tensor with a value beyond float16's range stays float32.
    """

    half: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    value_infos: list[onnx.ValueInfoProto] = field(default_factory=list)
    _count: int = 0

    def name(self, hint: str) -> str:
        """A unique name that starts with ``hint``."""
        self._count += 1
        return f"{hint}_{self._count}"

    def constant(self, value: NDArray[np.generic], hint: str) -> str:
        """Store an array as an initialiser, keeping its dtype."""
        name = self.name(hint)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, value: NDArray[np.floating], hint: str) -> str:
        """Store real-valued weights: float16 plus Cast if ``half``, large and in its range, else float32."""
        value = np.asarray(value, np.float32)
        if not self._halves(value):
            return self.constant(value, hint)
        stored = self.constant(value.astype(np.float16), f"{hint}_f16")
        name = self.name(hint)
        self.nodes.append(helper.make_node("Cast", [stored], [name], name=name, to=TensorProto.FLOAT))
        return name

    def real_constant(self, value: NDArray[np.floating], hint: str) -> str:
        """Store real-valued weights for an operator that reads float16 itself, where `weight` would use it."""
        value = np.asarray(value, np.float32)
        return self.constant(value.astype(np.float16) if self._halves(value) else value, hint)

    def _halves(self, value: NDArray[np.float32]) -> bool:
        return self.half and value.size >= LARGE and bool(np.abs(value).max() <= np.finfo(np.float16).max)

    def op(self, op_type: str, inputs: list[str], shape: Shape, hint: str = "", **attributes: Any) -> Tensor:
        """Append a standard node with one float output."""
        name = self.name(hint or op_type.lower())
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return self._declare(name, shape, TensorProto.FLOAT)

    def custom(
        self, op_type: str, inputs: list[str], outputs: list[tuple[Shape, int]], hint: str, **attributes: Any
    ) -> list[Tensor]:
        """Append a node of the custom domain; ``outputs`` are (shape, ONNX element type)."""
        base = self.name(hint)
        names = [base if i == 0 else f"{base}_{i}" for i in range(len(outputs))]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=base, domain=DOMAIN, **attributes))
        return [self._declare(n, shape, kind) for n, (shape, kind) in zip(names, outputs, strict=True)]

    def _declare(self, name: str, shape: Shape, kind: int) -> Tensor:
        self.value_infos.append(helper.make_tensor_value_info(name, kind, shape))
        return Tensor(name, shape)

    def finish(self, image: Shape, output: Tensor, output_name: str) -> onnx.ModelProto:
        """Build the model, with uint8 input ``image`` and float output ``output_name``, and check it with ONNX."""
        self.nodes.append(helper.make_node("Identity", [output.name], [output_name], name=f"{output_name}_out"))
        graph = helper.make_graph(
            self.nodes,
            "bireal_serve",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, image)],
            [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, output.shape)],
            self.initializers,
            value_info=self.value_infos,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == DOMAIN for node in self.nodes):
            opsets.append(helper.make_opsetid(DOMAIN, VERSION))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="bireal-serve")
        onnx.checker.check_model(model)
        return model


def leaky_clip(builder: GraphBuilder, x: Tensor, hint: str) -> Tensor:
    """`models.binarize.functional.leaky_clip` as slope * x + (1 - slope) * clip(x), slope = `LEAKY_SLOPE`."""
    low, high = (builder.constant(np.asarray(v, np.float32), "clip") for v in (-1.0, 1.0))
    clipped = builder.op("Clip", [x.name, low, high], x.shape, f"{hint}_clip")
    slope = builder.constant(np.asarray(LEAKY_SLOPE, np.float32), "slope")
    rest = builder.constant(np.asarray(1.0 - LEAKY_SLOPE, np.float32), "one_minus_slope")
    outside = builder.op("Mul", [x.name, slope], x.shape)
    inside = builder.op("Mul", [clipped.name, rest], x.shape)
    return builder.op("Add", [outside.name, inside.name], x.shape, f"{hint}_leaky")
