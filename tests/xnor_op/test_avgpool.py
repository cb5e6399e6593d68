"""AvgPool2: even and odd maps, any channel count, exactly the naive sums."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.xnor_op import naive, opkit


def run_avg_pool(x: np.ndarray, threads: int = 1) -> np.ndarray:
    channels = x.shape[3]
    graph = opkit.model(
        [opkit.node("AvgPool2", ["x"], ["y"])],
        [opkit.value("x", TensorProto.FLOAT, ["N", "H", "W", channels])],
        [opkit.value("y", TensorProto.FLOAT, ["N", "PH", "PW", channels])],
    )
    return opkit.session(graph, threads).run(None, {"x": x})[0]


@pytest.mark.parametrize("channels", [1, 7, 8, 9, 16, 17, 64, 100])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1), (2, 2), (5, 5), (6, 7), (7, 6)])
def test_sizes(size: tuple[int, int], channels: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, *size, channels)).astype(np.float32)
    np.testing.assert_array_equal(run_avg_pool(x), naive.avg_pool(x))


def test_two_threads(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 57, 56, 64)).astype(np.float32)
    np.testing.assert_array_equal(run_avg_pool(x, threads=2), naive.avg_pool(x))
