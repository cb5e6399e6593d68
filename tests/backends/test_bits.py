"""The packed sign format against a bit-by-bit reading of its definition."""

from __future__ import annotations

import numpy as np
import pytest

from service.backends.bits import pack_map, pack_signs, unpack_map, unpack_signs, words_per_pixel
from tests.backends import dialect_numpy as naive

CHANNELS = [1, 7, 31, 32, 33, 63, 64, 65, 512]


@pytest.mark.parametrize("channels", CHANNELS)
def test_packing_is_the_format_bit_by_bit_and_unpacking_its_inverse(rng: np.random.Generator, channels: int) -> None:
    negative = rng.random((2, 3, channels)) < 0.5
    words = pack_signs(negative)
    assert words.dtype == np.int32
    assert words.shape == (2, 3, words_per_pixel(channels))
    np.testing.assert_array_equal(words, naive.words_of(negative))
    np.testing.assert_array_equal(unpack_signs(words, channels), np.where(negative, -1, 1))


def test_bit_of_channel_32_is_the_lowest_of_word_1() -> None:
    negative = np.zeros((1, 40), bool)
    negative[0, [0, 31, 32]] = True
    np.testing.assert_array_equal(pack_signs(negative), [[np.int32(-(2**31) + 1), 1]])


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_map_has_a_border_of_zero_words(rng: np.random.Generator, channels: int) -> None:
    x = rng.standard_normal((2, 3, 5, channels)).astype(np.float32)
    bits = pack_map(x)
    np.testing.assert_array_equal(bits, naive.bits_of(x))
    for edge in (bits[:, 0], bits[:, -1], bits[:, :, 0], bits[:, :, -1]):
        assert not edge.any()
    np.testing.assert_array_equal(unpack_map(bits, channels), np.where(x < 0, -1, 1))


def test_zero_negative_zero_and_nan_are_plus_one_and_a_threshold_is_exclusive() -> None:
    x = np.array([0.0, -0.0, np.nan, -np.inf, np.inf, -1e-45, 0.5, 0.25], np.float32).reshape(1, 1, 1, 8)
    assert unpack_map(pack_map(x), 8).ravel().tolist() == [1, 1, 1, -1, 1, -1, 1, 1]
    threshold = np.full(8, 0.5, np.float32)
    assert unpack_map(pack_map(x, threshold), 8).ravel().tolist() == [-1, -1, 1, -1, 1, -1, 1, -1]
