"""Weight counts against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from service.backends.derive import derive_reference
from service.backends.dialect import GraphError
from service.backends.weights import WeightCount, count_weights
from tests.backends.graphs import PackedGraphBuilder, bireal18_like
from tests.backends.zoo import float_classifier


def test_one_of_each_operator() -> None:
    g = PackedGraphBuilder(0, 16, 16)
    g.stem(40, kernel=3)  # weight 40*3*3*3, scale 40, bias 40, mean 3
    g.pack("stem", "thresholded", threshold=True)  # 40
    g.bconv("stem", "conv", 10, source="thresholded")  # 10*3*3*40 bits in 10*3*3*2 words; scale 10, bias 10
    model = g.classifier("conv", 5)  # 10*5 as float16, 5
    real = 40 * 27 + 40 + 40 + 3 + 40 + 10 + 10 + 10 * 5 + 5
    assert count_weights(model) == WeightCount(
        binary_params=10 * 9 * 40, real_params=real, binary_bytes=10 * 9 * 2 * 4, real_bytes=4 * real
    )


def test_an_int16_stem_counts_two_bytes_a_weight(seed: int) -> None:
    whole = count_weights(bireal18_like(seed, widths=(32,), blocks=1))
    integer = count_weights(bireal18_like(seed, widths=(32,), blocks=1, integer_stem=True))
    assert integer.real_params == whole.real_params
    assert whole.real_bytes - integer.real_bytes == 2 * 32 * 7 * 7 * 3


def test_a_shared_constant_counts_once(seed: int) -> None:
    model = bireal18_like(seed, widths=(32,), blocks=1)
    before = count_weights(model)
    nodes = [node for node in model.graph.node if node.op_type == "BConv"]
    nodes[1].input[1] = nodes[0].input[1]
    unused = next(t for t in model.graph.initializer if t.name == "layer1.1.weight")
    model.graph.initializer.remove(unused)
    after = count_weights(model)
    assert before.binary_params - after.binary_params == 32 * 9 * 32
    assert before.binary_bytes - after.binary_bytes == 32 * 9 * 4


def test_an_empty_weight_breaks_the_rules(seed: int) -> None:
    """It was a division by zero."""
    model = bireal18_like(seed, widths=(32,), blocks=1)
    weight = next(t for t in model.graph.initializer if t.name == "layer1.1.weight")
    weight.CopyFrom(numpy_helper.from_array(np.zeros((32, 3, 3, 0), np.int32), weight.name))
    with pytest.raises(GraphError, match=r"layer1\.1\.weight is empty: \[32, 3, 3, 0\]"):
        count_weights(model)


def test_the_reference_holds_every_binary_weight_as_a_float32(seed: int) -> None:
    model = bireal18_like(seed, widths=(32, 64))
    packed, derived = count_weights(model), count_weights(derive_reference(model).model)
    signs = 3  # the constants 0, -1 and +1 of Where(x < 0, -1, 1)
    assert derived == WeightCount(
        0,
        packed.binary_params + packed.real_params + signs,
        0,
        4 * (packed.binary_params + packed.real_params + signs),
    )


def test_float16_storage_counts_as_the_float32_that_computes() -> None:
    model = float_classifier(0, channels=8, classes=5)
    count = count_weights(model)
    assert count == WeightCount(0, 8 * 27 + 8 * 5, 0, 4 * (8 * 27 + 8 * 5))
    assert (
        sum(numpy_helper.to_array(t).nbytes for t in model.graph.initializer if t.name != "axes")
        == count.real_bytes // 2
    )
    assert numpy_helper.to_array(model.graph.initializer[0]).dtype == np.float16
