"""Counts the weights of a graph and their size from its constants, separately for 1-bit and real weights."""

from dataclasses import dataclass

import numpy as np
import onnx

from service.backends import dialect
from service.backends.dialect import GraphError, PackedGraph

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class WeightCount:
    """Number and size of a graph's weights.

    Attributes:
        binary_params: number of 1-bit weights, without the unused bits of last words.
        real_params: number of real-valued parameters: float constants of any precision, and the integer weights of the
            stem and of 1x1 convolutions.
        binary_bytes: size of the 1-bit weights in memory, in words of 32 including unused bits.
        real_bytes: size of the real-valued parameters in memory: float32 whatever their stored precision, except the
            weights of the stem and of 1x1 convolutions, which keep theirs. The copies that operators make for their
            kernel, which may be wider, are not included (docs/adr/0007).
    """

    binary_params: int
    real_params: int
    binary_bytes: int
    real_bytes: int


def count_weights(model: onnx.ModelProto) -> WeightCount:
    """Counts the weights of a packed or a float graph.

    BatchNorm counts as what remains of it in the graph: one scale and one bias per channel. Constants that are not
    floats (axes, shapes) do not count. A constant that several nodes share counts once.

    Raises:
        GraphError: the graph breaks the packed dialect's rules.
    """
    graph = PackedGraph(model)
    packed: dict[str, int] = {}  # channels by name of the weight tensor
    as_stored: set[str] = set()  # names of weights that keep their stored precision in memory
    for node in graph.custom_nodes:
        if node.op == dialect.BCONV:
            packed[node.input(1)] = node.integer("channels")
        elif node.op in (dialect.STEM, dialect.POINTWISE):
            as_stored.add(node.input(1))

    binary_params = real_params = binary_bytes = real_bytes = 0
    for name, tensor in graph.constants.items():
        size = int(np.prod(tensor.dims, dtype=np.int64))
        if name in packed:
            if not size:
                raise GraphError(f"The BConv weight {name} is empty: {list(tensor.dims)}.")
            binary_params += size // tensor.dims[-1] * packed[name]
            binary_bytes += size * 4
        elif name in as_stored:
            real_params += size
            real_bytes += size * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        elif tensor.data_type in _FLOATS:
            real_params += size
            real_bytes += size * _FLOAT32_BYTES
    return WeightCount(binary_params, real_params, binary_bytes, real_bytes)
