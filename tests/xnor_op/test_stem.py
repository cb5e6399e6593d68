"""Stem: exact pixels times float32 or int16 weights, borders, pooling and bits."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.xnor_op import naive, opkit

# (H, W): one pixel, one row, one column, smaller than the filter, odd, even.
SIZES = [(1, 1), (1, 9), (8, 1), (2, 3), (3, 2), (5, 6), (9, 13), (16, 15), (20, 33)]
MEAN = np.array([123.675, 116.28, 103.53], np.float32)


def make_weight(rng: np.random.Generator, dtype: type, out_channels: int, kernel: int) -> np.ndarray:
    shape = (out_channels, kernel, kernel, 3)
    if dtype is np.int16:
        return rng.integers(-32768, 32768, shape).astype(np.int16)
    return rng.standard_normal(shape).astype(np.float32)


def run_stem(
    image: np.ndarray,
    weight: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    *,
    stride: int,
    pool: bool,
    with_bits: bool = True,
    threads: int = 1,
) -> list[np.ndarray]:
    channels = weight.shape[0]
    names = ["image", "weight", "scale", "bias", "mean"]
    stem = opkit.node("Stem", names, ["y", "y_bits"] if with_bits else ["y"], stride=stride, pool=int(pool))
    outputs = [opkit.value("y", TensorProto.FLOAT, ["N", "PH", "PW", channels])]
    if with_bits:
        outputs.append(opkit.value("y_bits", TensorProto.INT32, ["N", "PHp", "PWp", -(-channels // 32)]))
    constants = {"weight": weight, "scale": scale, "bias": bias, "mean": mean}
    graph = opkit.model([stem], [opkit.value("image", TensorProto.UINT8, ["N", "H", "W", 3])], outputs, constants)
    return opkit.session(graph, threads).run(None, {"image": image})


def check(
    rng: np.random.Generator,
    dtype: type,
    size: tuple[int, int],
    *,
    kernel: int = 7,
    stride: int = 2,
    pool: bool = True,
    out_channels: int = 64,
    batch: int = 1,
    threads: int = 1,
) -> None:
    image = rng.integers(0, 256, (batch, *size, 3)).astype(np.uint8)
    weight = make_weight(rng, dtype, out_channels, kernel)
    magnitude = np.abs(weight.astype(np.float64)).sum((1, 2, 3)) * 255
    scale = (rng.standard_normal(out_channels) / magnitude * 100).astype(np.float32)
    bias = rng.standard_normal(out_channels).astype(np.float32)
    y, bits = run_stem(image, weight, scale, bias, MEAN, stride=stride, pool=pool, threads=threads)
    expected = naive.stem(image, weight, scale, bias, MEAN, stride, pool)
    # A sum of terms rounds once a term, each time by at most half an ulp of a partial sum <= sum |w| * 255.
    terms = weight[0].size
    tolerance = np.abs(scale).astype(np.float64) * magnitude * 2.0**-24 * (terms if dtype is np.float32 else 4) + 1e-6
    assert (np.abs(y - expected) <= tolerance).all(), np.abs(y - expected).max()
    np.testing.assert_array_equal(bits, naive.pack_map(naive.signs(y)))


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: tuple[int, int], pool: bool, dtype: type, rng: np.random.Generator) -> None:
    for kernel, stride in [(7, 2), (7, 1), (3, 2), (3, 1), (1, 2), (5, 1)]:
        check(rng, dtype, size, kernel=kernel, stride=stride, pool=pool, out_channels=20)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize("out_channels", [1, 8, 15, 16, 17, 32, 33, 48, 64, 80])
def test_out_channels(out_channels: int, dtype: type, rng: np.random.Generator) -> None:
    check(rng, dtype, (15, 38), out_channels=out_channels)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_batch_and_rows_split_over_threads(dtype: type, rng: np.random.Generator) -> None:
    for pool in (False, True):
        check(rng, dtype, (64, 72), batch=3, threads=2, pool=pool)
        check(rng, dtype, (181, 31), threads=2, pool=pool)  # pooled rows of one image in several tasks


# Weights within int8, or a third of int16, may take kernels of their own.
@pytest.mark.parametrize("limit", [128, 129, 400, 10923, 32768])
@pytest.mark.parametrize("pool", [False, True])
def test_integer_sums_are_exact(pool: bool, limit: int, rng: np.random.Generator) -> None:
    """Sums come out as exact integers, rounded to float32 once, at borders too."""
    image = rng.integers(0, 256, (2, 19, 23, 3)).astype(np.uint8)
    weight = rng.integers(-limit, limit, (40, 7, 7, 3)).astype(np.int16)
    one, zero, no_mean = np.ones(40, np.float32), np.zeros(40, np.float32), np.zeros(3, np.float32)
    (y,) = run_stem(image, weight, one, zero, no_mean, stride=2, pool=pool, with_bits=False)
    np.testing.assert_array_equal(y, naive.stem(image, weight, one, zero, no_mean, 2, pool).astype(np.float32))


@pytest.mark.parametrize("weight_value", [-32768, 32767, -128, 127])
def test_largest_sums_do_not_overflow(weight_value: int) -> None:
    image = np.full((1, 9, 9, 3), 255, np.uint8)
    weight = np.full((33, 7, 7, 3), weight_value, np.int16)
    one, zero, no_mean = np.ones(33, np.float32), np.zeros(33, np.float32), np.zeros(3, np.float32)
    (y,) = run_stem(image, weight, one, zero, no_mean, stride=2, pool=False, with_bits=False)
    expected = naive.stem(image, weight, one, zero, no_mean, 2, False)
    np.testing.assert_array_equal(y, expected.astype(np.float32))


@pytest.mark.parametrize("total", [32767, 32768, -32768, -32769])
@pytest.mark.parametrize("middle", [1, -1])
@pytest.mark.parametrize("first", [0, 1])
def test_three_weights_that_just_fit_and_just_do_not(first: int, middle: int, total: int) -> None:
    """Kernels that add every other weight of a row in 16 bits (docs/adr/0067) take only weights whose sums fit."""
    image = np.full((1, 15, 17, 3), 255, np.uint8)
    weight = np.zeros((2, 7, 7, 3), np.int16)
    thirds = [total // 3, middle * (total // 3), total - 2 * (total // 3)]
    weight[1, 3, first : first + 5 : 2, 2] = thirds
    one, zero, no_mean = np.ones(2, np.float32), np.zeros(2, np.float32), np.zeros(3, np.float32)
    (y,) = run_stem(image, weight, one, zero, no_mean, stride=2, pool=False, with_bits=False)
    expected = naive.stem(image, weight, one, zero, no_mean, 2, False)
    np.testing.assert_array_equal(y, expected.astype(np.float32))


def test_mean_image_gives_the_bias(rng: np.random.Generator) -> None:
    """A picture of the mean colour is zero everywhere, borders included: only the bias is left."""
    mean = np.array([100, 50, 25], np.float32)
    image = np.broadcast_to(mean.astype(np.uint8), (1, 11, 12, 3)).copy()
    bias = rng.standard_normal(24).astype(np.float32)
    for dtype in (np.float32, np.int16):
        weight = make_weight(rng, dtype, 24, 7)
        scale = np.full(24, 2.0**-15 if dtype is np.int16 else 1.0, np.float32)
        (y,) = run_stem(image, weight, scale, bias, mean, stride=2, pool=False, with_bits=False)
        sums = np.abs(weight.astype(np.float64)).sum((1, 2, 3)).max() * 100 * scale[0]
        np.testing.assert_allclose(y, np.broadcast_to(bias, y.shape), atol=sums * 2.0**-22, rtol=0)
