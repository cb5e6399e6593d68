"""Augmentation of depth training: random zoomed, mirrored and recoloured crops of frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.data.augment import colour_jitter
from models.data.kitti import HEIGHT, WIDTH, Frame
from models.train.recipe import DepthLoss

HORIZON = 172.854 / 375 * HEIGHT  # row of KITTI's principal point, network pixels


def augment(frames: list[Frame], settings: DepthLoss, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Mirror, zoom, crop and colour-jitter a batch.

    A zoom by z multiplies the apparent disparity by z, since the network learns disparity for a fixed focal length. The
    zoom keeps the horizon in its row, so road points in a given row keep their disparity at any zoom; this is the
    strongest cue that generalises to other streets. LiDAR is only available for the left image. A mirrored frame
    therefore either keeps the LiDAR term and drops the photometric term, or (``settings.swap``) swaps its images, since
    the mirrored right image is the left image of the mirrored pair, and drops the LiDAR term.

    Returns:
        left and right float [B,3,160,crop_width] in 0..255, has_right bool [B], disparity float [B,160,crop_width].
    """
    width = settings.crop_width
    lefts, rights, has_right, disparities = [], [], [], []
    for frame in frames:
        # without swaps, draw only three numbers so that older recipes stay reproducible
        draw = torch.rand(4 if settings.swap else 3, generator=generator).tolist()
        zoom = 1.0 + (settings.max_zoom - 1.0) * draw[0]
        crop_h, crop_w = HEIGHT / zoom, width / zoom
        top = round(HORIZON * (1.0 - 1.0 / zoom))
        start = round((WIDTH - crop_w) * draw[1])
        rows, columns = slice(top, top + round(crop_h)), slice(start, start + round(crop_w))
        mirror = settings.mirror and draw[2] < 0.5
        swap = settings.swap and mirror and frame.right is not None and draw[3] < 0.5
        images = [frame.left, frame.right if frame.right is not None else frame.left]
        if swap:
            images.reverse()
        crops = []
        for image in images:
            x = torch.from_numpy(image[rows, columns]).permute(2, 0, 1)[None].float()
            x = F.interpolate(x, size=(HEIGHT, width), mode="bilinear", align_corners=False)[0]
            crops.append(x.flip(-1) if mirror else x)
        sparse = torch.from_numpy(frame.disparity_px[rows, columns])[None, None]
        target = F.interpolate(sparse, size=(HEIGHT, width), mode="nearest")[0, 0] * zoom
        lefts.append(crops[0])
        rights.append(crops[1])
        has_right.append(frame.right is not None and (swap or not mirror))
        disparities.append(torch.zeros_like(target) if swap else target.flip(-1) if mirror else target)
    left, right = torch.stack(lefts), torch.stack(rights)
    jittered = colour_jitter(torch.cat([left, right], dim=3), settings.colour, generator)
    left, right = jittered[..., :width], jittered[..., width:]
    return left, right, torch.tensor(has_right), torch.stack(disparities)
