"""Flips a bit of a loaded network's weights in this process's memory, as a fault of the hardware would."""

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from onnx import numpy_helper

from service.backends.base import LoadedModel
from service.backends.dialect import BCONV, PackedGraph, read_model
from service.card import Card

_MAP = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw..? .*")


def _addresses(patterns: list[bytes]) -> Iterator[int]:
    """Where one of several lies in the writable memory of this process, which is read once: it is large."""
    with Path("/proc/self/maps").open() as maps, Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for line in list(maps):
            found = _MAP.match(line)
            if found is None or "[v" in line or "[stack" in line:
                continue
            begin, end = (int(address, 16) for address in found.groups())
            memory.seek(begin)
            try:
                data = memory.read(end - begin)
            except OSError:  # unmapped meanwhile, or not readable
                continue
            for pattern in patterns:
                at = data.find(pattern)
                while at >= 0:
                    yield begin + at
                    at = data.find(pattern, at + 1)


# Kernels without a vector popcount keep a nibble of 64 output channels in 64 bytes (nibbles.h): which is a channel's.
_NIBBLE_BYTES = (
    lambda channel: channel // 32 * 32 + channel % 8 * 2 + channel // 8 % 2 * 16 + channel // 16 % 2,  # avx2
    lambda channel: channel % 32 * 2 + channel // 32,  # avx512bw
)


def _nibbles(words: np.ndarray, byte_of_channel: Callable[[int], int]) -> bytes:
    """The lowest nibbles of a word of each of up to 64 channels, uint32 [channels], as such a kernel keeps them."""
    kept = np.zeros(64, np.uint8)
    for channel, word in enumerate(words[:64]):
        kept[byte_of_channel(channel)] = word & 15
    return kept.tobytes()


def _patterns(card: Card, layer: int) -> list[bytes]:
    """Sixteen bytes or more of a binary convolution's weights, in the orders in which kernels and files keep them."""
    graph = PackedGraph(read_model(card.path))
    node = [node for node in graph.custom_nodes if node.op == BCONV][layer]
    weight = numpy_helper.to_array(graph.constants[node.input(1)]).view(np.uint32)  # [O, KH, KW, CW]
    middle = weight.shape[1] // 2
    words = weight.reshape(-1)
    return [
        *(weight[first : first + 4, middle, middle, 0].tobytes() for first in (0, 4, 8)),
        words[:4].tobytes(),
        words[words.size // 2 :][:4].tobytes(),
        *(_nibbles(weight[:, middle, middle, 0], order) for order in _NIBBLE_BYTES),
    ]


@contextmanager
def flipped_bit(card: Card, model: LoadedModel, image: np.ndarray, layer: int = 0) -> Iterator[int]:
    """One bit of the weights that a network runs with is another one inside the block; yields its address.

    The weights lie in memory more than once (the runtime keeps the file's, the operator its kernel's own layout): that
    copy is the right one whose change changes the network's output for the image, uint8 [H, W, 3].
    """
    intact = model.run(image[None]).tobytes()
    for address in list(_addresses(_patterns(card, layer))):
        byte = ctypes.c_ubyte.from_address(address)
        before = byte.value
        byte.value = before ^ 1
        if model.run(image[None]).tobytes() != intact:
            try:
                yield address
            finally:
                byte.value = before
            assert model.run(image[None]).tobytes() == intact, "the bit was not put back"
            return
        byte.value = before
    raise AssertionError("the weights that run were not found in memory")
