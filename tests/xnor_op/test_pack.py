"""Pack: sign bits, thresholds, tails, borders."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.xnor_op import naive, opkit

CHANNELS = [1, 3, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100, 512]
MAPS = [(1, 1), (1, 7), (5, 1), (4, 4), (7, 9)]


def run_pack(x: np.ndarray, threshold: np.ndarray | None = None, threads: int = 1) -> np.ndarray:
    names = ["x"] + (["threshold"] if threshold is not None else [])
    inputs = [opkit.value("x", TensorProto.FLOAT, ["N", "H", "W", x.shape[3]])]
    feeds = {"x": x}
    if threshold is not None:
        inputs.append(opkit.value("threshold", TensorProto.FLOAT, [x.shape[3]]))
        feeds["threshold"] = threshold
    outputs = [opkit.value("bits", TensorProto.INT32, ["N", "Hp", "Wp", -(-x.shape[3] // 32)])]
    graph = opkit.model([opkit.node("Pack", names, ["bits"])], inputs, outputs)
    return opkit.session(graph, threads).run(None, feeds)[0]


@pytest.mark.parametrize("channels", CHANNELS)
def test_signs_of_random_maps(channels: int, rng: np.random.Generator) -> None:
    for height, width in MAPS:
        x = rng.standard_normal((2, height, width, channels)).astype(np.float32)
        np.testing.assert_array_equal(run_pack(x), naive.pack_map(naive.signs(x)))


@pytest.mark.parametrize("channels", [3, 33, 64])
def test_threshold_of_each_channel(channels: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 3, 5, channels)).astype(np.float32)
    threshold = rng.standard_normal(channels).astype(np.float32)
    x[0, 1] = threshold  # equal is not below
    np.testing.assert_array_equal(run_pack(x, threshold), naive.pack_map(naive.signs(x, threshold)))


def test_zero_nan_and_infinity() -> None:
    x = np.full((1, 2, 2, 40), 0.0, np.float32)
    x[0, 0, 1] = -0.0
    x[0, 1, 0] = np.nan
    x[0, 1, 1] = -np.inf
    bits = run_pack(x)
    assert (bits[0, 1, 1] == 0).all(), "sign(0) is +1"
    assert (bits[0, 1, 2] == 0).all(), "sign(-0) is +1"
    assert (bits[0, 2, 1] == 0).all(), "NaN counts as +1"
    assert bits[0, 2, 2].tolist() == [-1, 0xFF]


def test_smallest_negative_number_is_negative() -> None:
    x = np.full((1, 1, 1, 32), -np.finfo(np.float32).smallest_subnormal, np.float32)
    assert run_pack(x)[0, 1, 1, 0] == -1


def test_two_threads_give_the_same(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 40, 40, 96)).astype(np.float32)
    np.testing.assert_array_equal(run_pack(x, threads=2), naive.pack_map(naive.signs(x)))


def test_empty_batch() -> None:
    assert run_pack(np.zeros((0, 4, 4, 32), np.float32)).shape == (0, 6, 6, 1)
