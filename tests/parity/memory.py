"""Flips a bit of a loaded network's weights in this process's memory, as a fault of the hardware would."""

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from onnx import numpy_helper

from service.backends.base import LoadedModel
from service.backends.dialect import BCONV, PackedGraph, read_model
from service.card import Card

_MAP = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw..? .*")


def _addresses(pattern: bytes) -> Iterator[int]:
    """Where bytes lie in the writable memory of this process."""
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
            at = data.find(pattern)
            while at >= 0:
                yield begin + at
                at = data.find(pattern, at + 1)


def _patterns(card: Card, layer: int) -> list[bytes]:
    """Sixteen bytes of a binary convolution's weights, in the orders in which kernels and files keep them."""
    graph = PackedGraph(read_model(card.path))
    node = [node for node in graph.custom_nodes if node.op == BCONV][layer]
    weight = numpy_helper.to_array(graph.constants[node.input(1)]).view(np.uint32)  # [O, KH, KW, CW]
    middle = weight.shape[1] // 2
    words = weight.reshape(-1)
    return [
        *(weight[first : first + 4, middle, middle, 0].tobytes() for first in (0, 4, 8)),
        words[:4].tobytes(),
        words[words.size // 2 :][:4].tobytes(),
    ]


@contextmanager
def flipped_bit(card: Card, model: LoadedModel, image: np.ndarray, layer: int = 0) -> Iterator[int]:
    """One bit of the weights that a network runs with is another one inside the block; yields its address.

    The weights lie in memory more than once (the runtime keeps the file's, the operator its kernel's own layout): that
    copy is the right one whose change changes the network's output for the image, uint8 [H, W, 3].
    """
    intact = model.run(image[None]).tobytes()
    for pattern in _patterns(card, layer):
        for address in list(_addresses(pattern)):
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
