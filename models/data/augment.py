"""Batch augmentations with an explicit random generator, so that runs can be repeated and resumed exactly."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crops(count: int, min_scale: float, generator: torch.Generator) -> Tensor:
    """Random crops of ``min_scale``..1 of the area, aspect 3/4..4/3, half of them mirrored.

    Args:
        count: number of crops.
        min_scale: smallest fraction of the image's area.
        generator: random generator.

    Returns:
        float32 [count,2,3], affine maps from crop to image in the coordinates of ``F.affine_grid``. They do not depend
        on the size that a crop is scaled to.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area = uniform(min_scale, 1.0)
    aspect = torch.exp(uniform(-math.log(4 / 3), math.log(4 / 3)))
    width = (area * aspect).sqrt().clamp(max=1.0)
    height = (area / aspect).sqrt().clamp(max=1.0)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    crops = torch.zeros(count, 2, 3)
    crops[:, 0, 0] = width * mirror
    crops[:, 1, 1] = height
    crops[:, 0, 2] = (1.0 - width) * uniform(-1.0, 1.0)
    crops[:, 1, 2] = (1.0 - height) * uniform(-1.0, 1.0)
    return crops


def cut(images: Tensor, crops: Tensor, size: int) -> Tensor:
    """Cut ``crops`` [B,2,3] (see `random_crops`) out of uint8 [B,H,W,3], scaled to float32 [B,3,size,size], 0..255."""
    x = images.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(crops, [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def whole(images: Tensor, size: int) -> Tensor:
    """Scale square uint8 [B,H,W,3] as the service does: float32 [B,3,size,size] in 0..255; size 0 keeps the size."""
    x = images.permute(0, 3, 1, 2).float()
    if size in (0, x.shape[-1]):
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def random_resized_crop(images: Tensor, size: int, min_scale: float, generator: torch.Generator) -> Tensor:
    """`random_crops` of uint8 [B,H,W,3], scaled to float32 [B,3,size,size] in 0..255."""
    return cut(images, random_crops(len(images), min_scale, generator), size)


def colour_jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Jitter brightness, contrast and per-channel gain by up to +-``strength`` each; [B,3,H,W] in 0..255 -> same."""

    def factor(*shape: int) -> Tensor:
        return 1.0 + strength * (2.0 * torch.rand(*shape, generator=generator) - 1.0)

    count = len(images)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    out = (images - mean) * factor(count, 1, 1, 1) + mean * factor(count, 1, 1, 1)
    return (out * factor(count, 3, 1, 1)).clamp_(0.0, 255.0)
