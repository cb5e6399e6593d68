"""Augmentation of depth training: zoomed, mirrored, recoloured crops of frames, and compositions of two crops."""

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
        if settings.pitch_px:
            shift = (2.0 * torch.rand((), generator=generator).item() - 1.0) * settings.pitch_px
            top = min(max(0, round(top + shift)), HEIGHT - round(crop_h))
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
    left, right, disparity = torch.stack(lefts), torch.stack(rights), torch.stack(disparities)
    whole_pair = torch.tensor(has_right)
    if settings.compose:
        left, disparity, composed = compose(left, disparity, settings.compose, generator)
        whole_pair &= ~composed
    jittered = colour_jitter(torch.cat([left, right], dim=3), settings.colour, generator)
    left, right = jittered[..., :width], jittered[..., width:]
    return left, right, whole_pair, disparity


def compose(left: Tensor, disparity: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Replace a slab of columns of some crops by another crop's, in the same columns (CutMix, Yun et al. 2019).

    Slabs have the full height, so what stands on the road stays on it. A network cannot know such a picture as a
    whole, as it can know a frame of a street that it has seen from end to end.

    Args:
        left: float [B,3,H,W].
        disparity: float [B,H,W].
        share: fraction of the crops that are composed, 0..1.
        generator: random generator.

    Returns:
        left and disparity, in new tensors, and which crops are composed, bool [B]: their right images no longer fit.
    """
    count, width = len(left), left.shape[-1]
    draw = torch.rand(count, 3, generator=generator)
    other = (torch.arange(count) + 1) % count
    sides = (width * (0.25 + 0.4 * draw[:, 1])).round()
    starts = ((width - sides) * draw[:, 2]).round()
    columns = torch.arange(width)
    slab = (columns >= starts[:, None]) & (columns < (starts + sides)[:, None]) & (draw[:, :1] < share)
    composed = slab.any(dim=1)
    mixed = torch.where(slab[:, None, None], left[other], left)
    return mixed, torch.where(slab[:, None], disparity[other], disparity), composed
