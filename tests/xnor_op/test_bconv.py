"""BConv against the naive version: exact, in every shape the tiles make special.

The float steps are part of the contract (dot * scale, + bias, + residual, one rounding each), so y is compared for
equality too, and with it every bit of its sign.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.xnor_op import naive, opkit

# Below, at and above the word (32), two words, and the blocks of 32 and 64 output channels.
CHANNELS = [1, 3, 31, 32, 33, 64, 96, 100, 512]
OUT_CHANNELS = [1, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 97, 128]
# Whole blocks of 32 or of 64 channels, and what is left: kernels have an epilogue for each.
WITH_WHOLE_BLOCKS = [40, 104]
# Widths around the tiles of 4 and 7 pixels.
SIZES = [(1, 1), (1, 2), (2, 1), (1, 9), (6, 1), (2, 2), (3, 3), (4, 7), (5, 8), (3, 6), (2, 13), (2, 15), (3, 22)]


class Case:
    """Random signs, weights and epilogue of one convolution."""

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        batch: int = 1,
        size: tuple[int, int],
        channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
    ) -> None:
        height, width = size
        self.channels, self.stride = channels, stride
        self.sign = np.where(rng.random((batch, height, width, channels)) < 0.5, -1, 1).astype(np.int32)
        self.weight = np.where(rng.random((out_channels, kernel, kernel, channels)) < 0.5, -1, 1).astype(np.int32)
        self.scale = rng.standard_normal(out_channels).astype(np.float32)
        self.bias = rng.standard_normal(out_channels).astype(np.float32)
        shape = (batch, (height - 1) // stride + 1, (width - 1) // stride + 1, out_channels)
        self.residual = rng.standard_normal(shape).astype(np.float32)

    def run(
        self, *, with_residual: bool = True, with_bits: bool = True, threads: int = 1, raw: bool = False
    ) -> list[np.ndarray]:
        out_channels = self.weight.shape[0]
        scale = np.ones(out_channels, np.float32) if raw else self.scale
        bias = np.zeros(out_channels, np.float32) if raw else self.bias
        graph, feeds = opkit.bconv_model(
            naive.pack_map(self.sign),
            naive.pack_words(self.weight),
            scale,
            bias,
            channels=self.channels,
            stride=self.stride,
            residual=self.residual if with_residual else None,
            with_bits=with_bits,
        )
        return opkit.session(graph, threads).run(None, feeds)

    def check(self, *, with_residual: bool = True, with_bits: bool = True, threads: int = 1) -> None:
        expected = naive.bconv(
            self.sign, self.weight, self.scale, self.bias, self.stride, self.residual if with_residual else None
        )
        y, *bits = self.run(with_residual=with_residual, with_bits=with_bits, threads=threads)
        np.testing.assert_array_equal(y, expected)
        if with_bits:
            np.testing.assert_array_equal(bits[0], naive.pack_map(naive.signs(expected)))

    def check_sums(self) -> None:
        (sums,) = self.run(with_residual=False, with_bits=False, raw=True)
        np.testing.assert_array_equal(sums, naive.integer_sums(self.sign, self.weight, self.stride).astype(np.float32))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("channels", CHANNELS)
def test_channels(channels: int, kernel: int, stride: int, rng: np.random.Generator) -> None:
    case = Case(rng, size=(5, 9), channels=channels, out_channels=40, kernel=kernel, stride=stride)
    case.check_sums()
    case.check()


@pytest.mark.parametrize("out_channels", OUT_CHANNELS)
def test_out_channels(out_channels: int, rng: np.random.Generator) -> None:
    for kernel, stride in [(3, 1), (1, 2)]:
        Case(rng, size=(4, 8), channels=70, out_channels=out_channels, kernel=kernel, stride=stride).check()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: tuple[int, int], kernel: int, stride: int, rng: np.random.Generator) -> None:
    case = Case(rng, size=size, channels=33, out_channels=36, kernel=kernel, stride=stride)
    case.check_sums()
    case.check()


@pytest.mark.parametrize("width", [*range(1, 24), 56, 76])
def test_every_width_around_the_tiles(width: int, rng: np.random.Generator) -> None:
    for stride in (1, 2):
        Case(rng, size=(3, width), channels=64, out_channels=64, kernel=3, stride=stride).check()


@pytest.mark.parametrize(("with_residual", "with_bits"), [(True, True), (True, False), (False, True), (False, False)])
def test_optional_input_and_output(with_residual: bool, with_bits: bool, rng: np.random.Generator) -> None:
    for out_channels in (64, 50):
        case = Case(rng, size=(6, 10), channels=64, out_channels=out_channels, kernel=3, stride=1)
        case.check(with_residual=with_residual, with_bits=with_bits)


@pytest.mark.parametrize("batch", [0, 2, 5])
def test_batches_on_two_threads(batch: int, rng: np.random.Generator) -> None:
    case = Case(rng, batch=batch, size=(14, 14), channels=128, out_channels=96, kernel=3, stride=1)
    case.check(threads=2)
    case.check(threads=1)


@pytest.mark.parametrize("size", [(7, 7), (28, 28), (40, 152)])
def test_rows_split_over_two_threads(size: tuple[int, int], rng: np.random.Generator) -> None:
    for stride in (1, 2):
        case = Case(rng, size=size, channels=64, out_channels=64, kernel=3, stride=stride)
        case.check(threads=2)


@pytest.mark.parametrize(("sign", "weight"), [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_all_equal_inputs_reach_the_extremes(sign: int, weight: int, rng: np.random.Generator) -> None:
    """Every product alike: the sums are +-9C inside, and counters hold their largest and smallest values."""
    for channels in (64, 512, 2080):
        for kernel in (1, 3):
            case = Case(rng, size=(3, 5), channels=channels, out_channels=33, kernel=kernel, stride=1)
            case.sign[:] = sign
            case.weight[:] = weight
            case.check_sums()
            case.check()


@pytest.mark.parametrize(
    ("kernel", "channels"), [(1, 65_503), (1, 65_504), (1, 65_536), (1, 70_000), (1, 140_000), (3, 7_264), (3, 7_300)]
)
def test_more_channels_than_16_bit_counters_hold(kernel: int, channels: int, rng: np.random.Generator) -> None:
    """Around 65,504 signs a sum, where kernels change from 16 to 32 bits."""
    case = Case(rng, size=(1, 2) if kernel == 1 else (3, 2), channels=channels, out_channels=3, kernel=kernel, stride=1)
    case.check_sums()
    case.check()
    for sign in (1, -1):
        case.sign[:] = sign
        case.weight[:] = -1
        case.check_sums()


@pytest.mark.parametrize("out_channels", WITH_WHOLE_BLOCKS)
def test_exact_zeros_of_y_count_as_plus_one(out_channels: int, rng: np.random.Generator) -> None:
    case = Case(rng, size=(4, 4), channels=64, out_channels=out_channels, kernel=3, stride=1)
    case.scale[:] = 0
    case.bias[:] = 0
    case.residual[:] = 0
    y, bits = case.run()
    assert (y == 0).all()
    assert (bits == 0).all()


@pytest.mark.parametrize("out_channels", WITH_WHOLE_BLOCKS)
def test_nan_and_infinity_pass_through(out_channels: int, rng: np.random.Generator) -> None:
    case = Case(rng, size=(4, 4), channels=64, out_channels=out_channels, kernel=3, stride=1)
    case.residual[0, 0] = np.nan
    case.residual[0, 1] = -np.inf
    y, bits = case.run()
    assert np.isnan(y[0, 0]).all()
    assert (bits[0, 1, 1:-1] == 0).all(), "NaN counts as +1"
    assert (bits[0, 2, 1:-1, : out_channels // 32] == -1).all()


@pytest.mark.parametrize("out_channels", WITH_WHOLE_BLOCKS)
def test_residual_of_negative_zero(out_channels: int, rng: np.random.Generator) -> None:
    case = Case(rng, size=(2, 2), channels=32, out_channels=out_channels, kernel=1, stride=1)
    case.scale[:] = -0.0
    case.bias[:] = -0.0
    case.residual[:] = -0.0
    _, bits = case.run()
    assert (bits == 0).all()
