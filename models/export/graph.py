"""A small ONNX graph writer: names, initialisers, declared shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
CUSTOM_DOMAIN = "bireal"  # the operators of service/xnor_op
BATCH = "N"  # symbolic batch dimension

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Tensor:
    """A value of the graph: its name and its shape (the batch is symbolic)."""

    name: str
    shape: Shape


@dataclass
class GraphBuilder:
    """Collects nodes and initialisers; every value's shape is declared, which in-place residuals depend on.

    Attributes:
        half: store large real-valued initialisers as float16 with a Cast (the runtime folds it at load).
    """

    half: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    value_infos: list[onnx.ValueInfoProto] = field(default_factory=list)
    _count: int = 0

    def name(self, hint: str) -> str:
        """A fresh name."""
        self._count += 1
        return f"{hint}_{self._count}"

    def constant(self, value: NDArray[np.generic], hint: str) -> str:
        """Store an array as an initialiser of its own type."""
        name = self.name(hint)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, value: NDArray[np.floating], hint: str) -> str:
        """Store real-valued weights: float16 plus Cast if ``half`` and large, else float32.

        Raises:
            ValueError: if a weight does not fit float16.
        """
        value = np.asarray(value, np.float32)
        if not self.half or value.size < 256:
            return self.constant(value, hint)
        if np.abs(value).max() > 65504:
            raise ValueError(f"{hint}: a weight of {np.abs(value).max():.3g} does not fit float16")
        stored = self.constant(value.astype(np.float16), f"{hint}_f16")
        name = self.name(hint)
        self.nodes.append(helper.make_node("Cast", [stored], [name], name=name, to=TensorProto.FLOAT))
        return name

    def op(self, op_type: str, inputs: list[str], shape: Shape, hint: str = "", **attributes: Any) -> Tensor:
        """Append a stock node with one float output."""
        name = self.name(hint or op_type.lower())
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return self._declare(name, shape, TensorProto.FLOAT)

    def custom(
        self, op_type: str, inputs: list[str], outputs: list[tuple[Shape, int]], hint: str, **attributes: Any
    ) -> list[Tensor]:
        """Append a node of the custom domain; ``outputs`` are (shape, ONNX element type)."""
        base = self.name(hint)
        names = [base if i == 0 else f"{base}_{i}" for i in range(len(outputs))]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=base, domain=CUSTOM_DOMAIN, **attributes))
        return [self._declare(n, shape, kind) for n, (shape, kind) in zip(names, outputs, strict=True)]

    def _declare(self, name: str, shape: Shape, kind: int) -> Tensor:
        self.value_infos.append(helper.make_tensor_value_info(name, kind, shape))
        return Tensor(name, shape)

    def finish(self, image: Shape, output: Tensor, output_name: str) -> onnx.ModelProto:
        """Close the graph: uint8 input ``image``, float output ``output_name``; checked by onnx."""
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
        if any(node.domain == CUSTOM_DOMAIN for node in self.nodes):
            opsets.append(helper.make_opsetid(CUSTOM_DOMAIN, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="bireal-serve")
        onnx.checker.check_model(model)
        return model
