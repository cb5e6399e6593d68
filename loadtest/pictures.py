"""Synthetic pictures for load tests: multi-scale noise that is as expensive to decode as a photograph."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float64]


def noise(height: int, width: int, seed: int | np.random.Generator, falloff: float = 1.0) -> Floats:
    """A random texture 0..1, [height, width], with a 1 / f^falloff spectrum."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    frequency = np.sqrt(rows**2 + columns**2)
    frequency[0, 0] = 1
    field = np.fft.ifft2(np.fft.fft2(np.random.default_rng(seed).standard_normal((height, width))) / frequency**falloff)
    low, high = np.percentile(field.real, [1, 99])
    texture: Floats = np.clip((field.real - low) / (high - low), 0, 1)
    return texture


def photo_like(width: int = 500, height: int = 375, *, seed: int = 1, quality: int = 85) -> bytes:
    """A JPEG with a 1/f spectrum, like photographs.

    Args:
        width: Width in pixels; 500 x 375 is the typical size of an ImageNet photo.
        height: Height in pixels.
        seed: Seed of the noise; the same seed gives the same bytes.
        quality: JPEG quality.
    """
    rng = np.random.default_rng(seed)
    channels = [noise(height, width, rng) for _ in range(3)]
    pixels = (255 * np.stack(channels, axis=-1)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()
