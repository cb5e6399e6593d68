"""What the weights of a graph take, counted from its constants: 1-bit weights and real ones apart."""

from dataclasses import dataclass

import numpy as np
import onnx

from service.backends import dialect
from service.backends.dialect import PackedGraph

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class WeightCount:
    """Weights of a graph.

    Attributes:
        binary_params: 1-bit weights, those that are convolved with; the unused bits of a last word do not count.
        real_params: real-valued parameters: float constants of any precision, and the integer weights of a stem and of
            1x1 convolutions.
        binary_bytes: of the 1-bit weights as the runtime holds them, in words of 32; here the unused bits do count.
        real_bytes: of the real-valued parameters as the runtime holds them: float32, whatever precision they are stored
            in, but the weights of a stem and of 1x1 convolutions in their own. The copies that operators make for
            their kernel, which may be wider, are not in these (docs/adr/0007).
    """

    binary_params: int
    real_params: int
    binary_bytes: int
    real_bytes: int


def count_weights(model: onnx.ModelProto) -> WeightCount:
    """Counts the weights of a packed or a float graph.

    BatchNorm counts as what is left of it in the graph: a scale and a bias for each channel. Constants that are not
    floats (axes, shapes) do not count. A constant that several nodes share counts once.

    Raises:
        GraphError: the graph breaks the packed dialect's rules.
    """
    graph = PackedGraph(model)
    packed: dict[str, int] = {}  # weight tensor -> channels
    as_stored: set[str] = set()  # weights that no Cast widens
    for node in graph.custom_nodes:
        if node.op == dialect.BCONV:
            packed[node.input(1)] = node.integer("channels")
        elif node.op in (dialect.STEM, dialect.POINTWISE):
            as_stored.add(node.input(1))

    binary_params = real_params = binary_bytes = real_bytes = 0
    for name, tensor in graph.constants.items():
        size = int(np.prod(tensor.dims, dtype=np.int64))
        if name in packed:
            binary_params += size // tensor.dims[-1] * packed[name]
            binary_bytes += size * 4
        elif name in as_stored:
            real_params += size
            real_bytes += size * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        elif tensor.data_type in _FLOATS:
            real_params += size
            real_bytes += size * _FLOAT32_BYTES
    return WeightCount(binary_params, real_params, binary_bytes, real_bytes)
