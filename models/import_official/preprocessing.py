"""How imported classifiers see an image: scaled to a shorter side of 256, of which the centre 224 are cut."""

from __future__ import annotations

SIZE, RESIZE_SHORTER = 224, 256  # paper Sec. 4.1
RECIPE = "imported"  # stands in checkpoints and cards in place of a recipe of models.train


def shorter_side(size: int) -> int:
    """Length that the shorter side of an image is scaled to for an input of ``size`` pixels."""
    return round(size * RESIZE_SHORTER / SIZE)
