"""Batches in parts: how large a part is, and that parts are put together again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.backends import backend_for
from service.backends.batches import MOST_MAP_BYTES, images_a_run, largest_map_bytes
from service.backends.session import run_images
from service.card import Card
from tests.backends.graphs import bireal18_like
from tests.backends.zoo import images_for, write_model

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"
PACKED = sorted(path.parent for path in ZOO.glob("bireal*/*/card.yaml"))


@pytest.mark.parametrize("folder", PACKED, ids=lambda folder: folder.parent.name)
def test_the_card_tells_the_largest_map_that_the_graph_declares(folder: Path) -> None:
    card = Card.load(folder)
    declared = [value.type.tensor_type for value in onnx.load(card.path).graph.value_info]
    floats = [tensor for tensor in declared if tensor.elem_type == onnx.TensorProto.FLOAT]
    largest = max(math.prod(dim.dim_value for dim in tensor.shape.dim[1:]) * 4 for tensor in floats)
    assert largest_map_bytes(card) == largest


@pytest.mark.parametrize(
    ("map_bytes", "images"),
    [
        (MOST_MAP_BYTES // 2, 2),
        (MOST_MAP_BYTES // 2 + 1, 1),
        (MOST_MAP_BYTES, 1),
        (9 * MOST_MAP_BYTES, 1),
        (1024, 8192),
    ],
)
def test_a_part_is_what_fits_and_at_least_one_image(map_bytes: int, images: int) -> None:
    assert images_a_run(map_bytes) == images


class Recorder:
    """A session whose output is its input's first value of each image; keeps the sizes of its runs."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, _outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        images = feeds["image"]
        self.sizes.append(len(images))
        return [images[:, 0, 0, :1].astype(np.float32)]


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(1, 2, [1]), (2, 2, [2]), (5, 2, [2, 2, 1]), (4, 1, [1, 1, 1, 1]), (5, None, [5])],
)
def test_parts_are_joined_in_order(count: int, most: int | None, sizes: list[int]) -> None:
    session = Recorder()
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1).repeat(3, axis=3)
    found = run_images(session, "logits", images, most, name="test")  # type: ignore[arg-type]
    assert session.sizes == sizes
    np.testing.assert_array_equal(found, np.arange(count, dtype=np.float32)[:, None])


def test_a_model_in_parts_answers_as_in_one(
    tmp_path: Path, seed: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bireal18_like(seed, size=(40, 33), widths=(32, 64), blocks=1, classes=7)
    card = write_model(tmp_path, model)
    images = images_for(model, rng, 5)
    whole = backend_for("binary").load(card, "binary", intra_op_threads=1).run(images)
    monkeypatch.setattr("service.backends.batches.MOST_MAP_BYTES", 2 * largest_map_bytes(card))
    assert images_a_run(largest_map_bytes(card)) == 2
    parts = backend_for("binary").load(card, "binary", intra_op_threads=1).run(images)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)  # its head is stock, and rounds by the batch
