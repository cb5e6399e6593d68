"""Synthetic photos, the images that the networks are measured on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.uint8]


def photos(count: int, height: int, width: int, seed: int = 0) -> Images:
    """Synthetic photos: noise dominated by low frequencies, as in natural images.

    Args:
        count: number of images.
        height: height in pixels.
        width: width in pixels.
        seed: seed of the noise.

    Returns:
        uint8 [count, height, width, 3].
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((count, height, width, 3), np.float32)
    for cells in (2, 4, 8, 16, 32):
        noise = rng.random((count, cells, cells, 3), np.float32) - 0.5
        for image, planes in zip(total, noise, strict=True):
            image += np.stack([_scaled(plane, height, width) for plane in planes.transpose(2, 0, 1)], -1) / cells**0.5
    images: Images = np.clip(total / total.std() * 60.0 + 120.0, 0, 255).astype(np.uint8)
    return images


def _scaled(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC), np.float32)
