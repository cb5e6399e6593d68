"""Pointwise and GlobalMean: exact 8-bit products, float ones within rounding, tails of every tile, bits, threads."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.xnor_op import naive, opkit

Shape = tuple[int, int, int]  # N, H, W
CHANNELS = [1, 3, 4, 15, 16, 17, 64, 65, 130]
OUT_CHANNELS = [1, 2, 15, 16, 17, 32, 33, 64, 100]


def run_pointwise(
    x: np.ndarray,
    weight: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    *,
    slope: float | None = None,
    with_bits: bool = True,
    threads: int = 1,
) -> list[np.ndarray]:
    channels, out = weight.shape
    names = ["x", "weight", "scale", "bias"] + (["slope"] if slope is not None else [])
    constants = {"weight": weight, "scale": scale, "bias": bias}
    if slope is not None:
        constants["slope"] = np.array([slope], np.float32)
    outputs = [opkit.value("y", TensorProto.FLOAT, ["N", "H", "W", out])]
    if with_bits:
        outputs.append(opkit.value("y_bits", TensorProto.INT32, ["N", "Hp", "Wp", -(-out // 32)]))
    graph = opkit.model(
        [opkit.node("Pointwise", names, [o.name for o in outputs])],
        [opkit.value("x", TensorProto.FLOAT, ["N", "H", "W", channels])],
        outputs,
        constants,
    )
    return opkit.session(graph, threads).run(None, {"x": x})


def check(
    rng: np.random.Generator,
    dtype: type,
    shape: Shape,
    channels: int,
    out: int,
    *,
    slope: float | None = None,
    with_bits: bool = True,
    threads: int = 1,
) -> None:
    x = rng.standard_normal((*shape, channels)).astype(np.float32)
    if dtype is np.int8:
        weight = rng.integers(-127, 128, (channels, out)).astype(np.int8)
    else:
        weight = rng.standard_normal((channels, out)).astype(dtype)
    scale, bias = (rng.standard_normal(out).astype(np.float32) for _ in range(2))
    results = run_pointwise(x, weight, scale, bias, slope=slope, with_bits=with_bits, threads=threads)
    values = x if slope is None else naive.leaky_clip(x, slope)
    if dtype is np.int8:
        np.testing.assert_array_equal(results[0], naive.pointwise_8_bits(values, weight, scale, bias))
    else:
        expected = (values.astype(np.float64) @ weight.astype(np.float64)) * scale + bias
        terms = np.abs(values).astype(np.float64) @ np.abs(weight).astype(np.float64) * np.abs(scale) + np.abs(bias)
        # A sum of terms rounds once a term, each time by at most half an ulp of a partial sum; then scale and bias.
        assert (np.abs(results[0] - expected) <= terms * 2.0**-24 * (channels + 4)).all()
    if with_bits:
        np.testing.assert_array_equal(results[1], naive.pack_map(naive.signs(results[0])))


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32])
@pytest.mark.parametrize("out", OUT_CHANNELS)
def test_channels(out: int, dtype: type, rng: np.random.Generator) -> None:
    for channels in CHANNELS:
        check(rng, dtype, (1, 3, 5), channels, out)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32])
@pytest.mark.parametrize("width", range(1, 30))
def test_tails_of_tiles(width: int, dtype: type, rng: np.random.Generator) -> None:
    check(rng, dtype, (1, 1, width), 20, 40, with_bits=False)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32])
def test_threads_share_rows_or_channels(dtype: type, rng: np.random.Generator) -> None:
    check(rng, dtype, (2, 61, 9), 100, 70, threads=2)  # rows, with the bits of each
    check(rng, dtype, (1, 7, 7), 512, 640, with_bits=False, threads=2)  # few pixels, so blocks of output channels
    check(rng, dtype, (3, 40, 40), 64, 96, with_bits=False, threads=2)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32])
def test_leaky_clip(dtype: type, rng: np.random.Generator) -> None:
    check(rng, dtype, (2, 5, 7), 33, 20, slope=0.1)
    check(rng, dtype, (1, 1, 1), 1, 1, slope=0.25)


def test_single_score_map_of_many_pixels(rng: np.random.Generator) -> None:
    for dtype in (np.float16, np.float32):
        for channels in (64, 100, 256):
            check(rng, dtype, (1, 13, 21), channels, 1, threads=2)


def test_rounding_to_8_bits_at_its_edges() -> None:
    """Halves go to the even integer; pixels of zeros and of tiny values give the bias; the largest sums are exact."""
    steps = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 126.5], np.float32)
    x = np.stack([steps, np.zeros(8, np.float32), np.full(8, 1e-31, np.float32), -steps]).reshape(1, 1, 4, 8)
    weight = np.diag([1] * 8).astype(np.int8)
    one, bias = np.ones(8, np.float32), np.arange(8, dtype=np.float32)
    (y,) = run_pointwise(x, weight, one, bias, with_bits=False)
    q = np.array([127, 0, 2, 2, 0, -2, -126, 126], np.float32)
    np.testing.assert_array_equal(y[0, 0], np.stack([q + bias, bias, bias, bias - q]))
    channels = 1500
    x = np.full((1, 1, 1, channels), 3.0, np.float32)
    for value in (-128, 127):
        weight = np.full((channels, 2), value, np.int8)
        (y,) = run_pointwise(x, weight, one[:2], 0 * one[:2], with_bits=False)
        np.testing.assert_array_equal(y, naive.pointwise_8_bits(x, weight, one[:2], 0 * one[:2]))


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 9, 20, 64])
def test_what_is_not_finite_stays_so_through_8_bits(channels: int, value: float, rng: np.random.Generator) -> None:
    """As they would in floats: parameters that are damaged must not end in numbers that look right."""
    weight = rng.integers(-127, 128, (channels, 20)).astype(np.int8)
    one, zero = np.ones(20, np.float32), np.zeros(20, np.float32)
    for place in {0, channels // 2, channels - 1}:
        x = rng.standard_normal((1, 1, 3, channels)).astype(np.float32)
        x[0, 0, 1, place] = value
        (y,) = run_pointwise(x, weight, one, zero, with_bits=False)
        assert np.isnan(y[0, 0, 1]).all()
        beside = x[:, :, ::2]
        np.testing.assert_array_equal(y[:, :, ::2], naive.pointwise_8_bits(beside, weight, one, zero))


def test_every_float16_is_widened_exactly() -> None:
    halves = np.arange(65536, dtype=np.uint32).astype(np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    weight = finite[: len(finite) // 64 * 64].reshape(1, -1)  # one input channel, whose value is 1
    out = weight.shape[1]
    (y,) = run_pointwise(
        np.ones((1, 1, 1, 1), np.float32), weight, np.ones(out, np.float32), np.zeros(out, np.float32), with_bits=False
    )
    np.testing.assert_array_equal(y.ravel(), weight.astype(np.float32).ravel())


def test_refuses_what_does_not_fit(rng: np.random.Generator) -> None:
    one = np.ones(2, np.float32)
    x = np.ones((1, 1, 1, 3), np.float32)
    with pytest.raises(Exception, match="give float32, float16 or int8"):
        run_pointwise(x, np.ones((3, 2), np.int16), one, one)
    with pytest.raises(Exception, match=r"input 'scale' has shape \[3\]"):
        run_pointwise(x, np.ones((3, 2), np.int8), np.ones(3, np.float32), one)


@pytest.mark.parametrize("shape", [(1, 1, 1, 5), (3, 2, 9, 33), (2, 7, 7, 512)])
def test_global_mean(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    graph = opkit.model(
        [opkit.node("GlobalMean", ["x"], ["y"])],
        [opkit.value("x", TensorProto.FLOAT, ["N", "H", "W", shape[3]])],
        [opkit.value("y", TensorProto.FLOAT, ["N", 1, 1, shape[3]])],
    )
    (y,) = opkit.session(graph, 2).run(None, {"x": x})
    np.testing.assert_array_equal(y, naive.global_mean(x))
