"""Depth task: stereo photometric loss (Garg et al. 2016), LiDAR and smoothness terms, held-out depth metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.data.kitti import (
    HEIGHT,
    WIDTH,
    Frame,
    FrameFile,
    all_decoded,
    decoded,
    drive_name,
    find_frames,
    hold_out_frames,
    load_drives,
)
from models.data.normalise import normalise
from models.train.depth_augment import augment
from models.train.depth_teacher import PretrainedDepth
from models.train.device import best_device, bfloat16_where_fast, device_of
from models.train.hints import hints_of
from models.train.pretrained import feature_maps, imagenet_network
from models.train.recipe import PhaseSpec, Recipe
from models.train.recipes.kitti import DEPTH_TEACHER
from service.evaluation import KITTI_BASELINE_M, KITTI_FX_PX

# The last frames of each drive are held out for model selection; the drive that results are reported on is never used.
# These numbers are without a gap. For other drives see `hold_out_frames`. No frame is held out of the drive in a queue:
# its frames hardly differ, so they would judge what was memorised.
HOLD_OUT = {"2011_09_26_drive_0005": 15, "sfnd_2011_09_26": 0, "kitti2015": 5}
FX_BASELINE = KITTI_FX_PX[1242] * WIDTH / 1242 * KITTI_BASELINE_M  # depth [m] = this / disparity [network px]


def whole_frames(data: Path, count: int) -> Tensor:
    """Left images of training frames, uncropped as in the service: float32 pixels [N,3,160,608].

    Args:
        data: folder of drives, or a folder with them in train/.
        count: maximum number of frames, chosen at random with a fixed seed.

    Raises:
        FileNotFoundError: there is no drive, or no frame that is not held out.
    """
    root = data / "train" if (data / "train").is_dir() else data
    frames, held_out = hold_out_frames(find_frames(root), HOLD_OUT)
    if not frames:
        raise FileNotFoundError(f"{root} has no frame to train on ({len(held_out)} are held out): give longer drives")
    pick = np.random.default_rng(0).choice(len(frames), min(count, len(frames)), replace=False)
    chosen = all_decoded([frames[i] for i in pick])
    return torch.from_numpy(np.stack([frame.left for frame in chosen])).permute(0, 3, 1, 2).float()


def compared(disparity_px: Tensor) -> Tensor:
    """Mask [160,608] of the pixels used in held-out metrics: known, less than 80 m away, below the top of Garg's crop.

    The other edges of the crop are not applied.
    """
    below = torch.arange(HEIGHT)[:, None] >= int(0.408 * HEIGHT)
    return (disparity_px > FX_BASELINE / 80.0) & below


class DepthTask:
    """KITTI frames at 160x608; training uses random zoomed crops of the full height.

    Raises:
        FileNotFoundError: there is no drive.
        ValueError: the recipe uses distillation and there is no teacher, no held-out frame has ground truth, or the
            training frames do not fill a batch.
    """

    metric = "delta1"
    train: list[Frame | FrameFile]
    held_out: list[Frame | FrameFile]

    def __init__(self, recipe: Recipe, data: Path, teacher: nn.Module | None = None) -> None:
        root = data / "train" if (data / "train").is_dir() else data
        self.train, self.held_out = hold_out_frames(load_drives(root), HOLD_OUT)
        self.recipe = recipe
        self.teacher = teacher
        own_maps = recipe.teacher == DEPTH_TEACHER  # those that the teacher made its depth of
        if recipe.hints > 0 and own_maps and not isinstance(teacher, PretrainedDepth):
            raise ValueError(f"recipe {recipe.name} uses hints: give the {DEPTH_TEACHER} checkpoint with --teacher")
        if teacher is None and any(phase.distill > 0 for phase in recipe.phases):
            raise ValueError(f"recipe {recipe.name} uses distillation: give its teacher with --teacher CHECKPOINT")
        if not any(compared(torch.from_numpy(decoded(frame).disparity_px)).any() for frame in self.held_out):
            raise ValueError(
                f"{root}: none of the held-out frames (the last tenth of each drive) has measured depth: give a drive "
                "of ten or more frames with lidar_depth/ or disp_noc_0/"
            )
        #: Gives the maps of the hints where the teacher is a network of ours, which has none of that shape.
        self.pretrained = imagenet_network().eval().to(best_device()) if recipe.hints > 0 and not own_maps else None
        settings = recipe.depth
        diverse = settings.diverse
        shares = [
            settings.diverse_repeats if drive_name(frame.drive, diverse) in diverse else 1 for frame in self.train
        ]
        self._pass = np.repeat(np.arange(len(self.train)), shares)  # one pass over the frames
        if not len(self._pass) or not self.steps_per_epoch():
            raise ValueError(
                f"{root}: {len(self.train)} training frames ({len(self.held_out)} more are held out), seen "
                f"{len(self._pass) * settings.repeats} times in an epoch, do not fill one batch of {recipe.batch} "
                f"(recipe {recipe.name}), so nothing would be trained: give more frames"
            )

    def steps_per_epoch(self) -> int:
        """Full batches in ``repeats`` passes over the frames, or the recipe's ``epoch_steps``."""
        return self.recipe.epoch_steps or len(self._pass) * self.recipe.depth.repeats // self.recipe.batch

    def batches(self, spec: PhaseSpec, epoch: int, first_step: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield batches (left, right, has_right, disparity), which depend only on (seed, epoch, step)."""
        settings, batch, seed = self.recipe.depth, self.recipe.batch, self.recipe.seed
        order = np.random.default_rng((seed, epoch))
        passes = math.ceil(self.steps_per_epoch() * batch / len(self._pass))
        indices = np.concatenate([order.permutation(self._pass) for _ in range(passes)])
        for step in range(first_step, self.steps_per_epoch()):
            generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + step)
            frames = [self.train[i] for i in indices[step * batch : (step + 1) * batch]]
            yield augment(all_decoded(frames), settings, generator)

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...], spec: PhaseSpec) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the LiDAR, photometric and smoothness terms and of the distance to the teacher's map."""
        left, right, has_right, target = batch
        weights = self.recipe.depth
        x = normalise(left)
        with bfloat16_where_fast(x.device, wanted=self.recipe.bf16):
            disparity = network(x)
        disparity = disparity.float()
        known = target > 0
        distances = (disparity[known].log() - target[known].log()).abs()
        lidar = distances.sum() / max(1, distances.numel())  # a batch of swapped pairs has no points
        photometric, smooth = stereo_terms(left / 255.0, right / 255.0, has_right, disparity, weights.scales)
        total = weights.lidar * lidar + weights.photometric * photometric + weights.smooth * smooth
        figures = {"lidar": lidar.detach(), "photometric": photometric.detach(), "smooth": smooth.detach()}
        if spec.distill > 0:
            answer, maps = self._answer(x, left)
            distance = (disparity.log() - answer.log()).abs().mean()
            total = (1.0 - spec.distill) * total + spec.distill * distance
            figures["teacher"] = distance.detach()
            if self.recipe.hints > 0:
                hints = hints_of(network)(maps)
                total = total + self.recipe.hints * hints
                figures["hints"] = hints.detach()
        return total, figures

    @torch.no_grad()
    def _answer(self, x: Tensor, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The teacher's disparity float32 [B,H,W], and the feature maps for hints, its own or an ImageNet network's.

        Args:
            x: normalised images [B,3,H,W].
            pixels: the same images in 0..255.
        """
        assert self.teacher is not None
        maps: list[Tensor]
        with bfloat16_where_fast(x.device, wanted=self.recipe.bf16):
            if self.recipe.hints == 0 or self.pretrained is not None:
                answer = self.teacher(x).float()
                maps = [] if self.pretrained is None else feature_maps(self.pretrained, pixels)
            else:
                assert isinstance(self.teacher, PretrainedDepth)
                maps = self.teacher.features(x)
                answer = self.teacher.decode(maps).float()
            if self.recipe.depth.teacher_mirrored:  # averaging over the mirrored crop reduces the teacher's error
                answer = (answer * self.teacher(x.flip(3)).float().flip(2)).sqrt()
        return answer, maps

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """abs_rel and delta < 1.25 on the held-out frames, at the network's size (not the Eigen protocol).

        Frames without ground truth in the compared region are skipped.
        """
        network.eval()
        abs_rel, delta1 = [], []
        for frame in map(decoded, self.held_out):
            target = torch.from_numpy(frame.disparity_px)
            known = compared(target)
            if not known.any():
                continue
            image = torch.from_numpy(frame.left).permute(2, 0, 1)[None]
            predicted = FX_BASELINE / network(normalise(image.to(device_of(network))))[0].cpu()
            truth = FX_BASELINE / target[known]
            answer = predicted[known].clamp(1e-3, 80.0)
            abs_rel.append(((answer - truth).abs() / truth).mean().item())
            delta1.append((torch.maximum(answer / truth, truth / answer) < 1.25).float().mean().item())
        return {"abs_rel": float(np.mean(abs_rel)), "delta1": float(np.mean(delta1))}


def stereo_terms(
    left: Tensor, right: Tensor, has_right: Tensor, disparity: Tensor, scales: int
) -> tuple[Tensor, Tensor]:
    """The photometric and the smoothness term, each averaged over ``scales`` successive halvings.

    Coarse scales provide a gradient for disparities that are many pixels off, where fine scales have none. Garg et al.
    2016 square the differences, and smooth the disparity alike everywhere.

    Args:
        left: float [B,3,H,W] in 0..1.
        right: float [B,3,H,W] in 0..1.
        has_right: bool [B], whether ``right`` is the right image of the pair.
        disparity: float [B,H,W], pixels of ``left``.
        scales: number of scales.

    Returns:
        Two scalars.
    """
    photometric = smooth = torch.zeros((), device=disparity.device)
    for scale in range(scales):
        if scale:
            left, right = F.avg_pool2d(left, 2), F.avg_pool2d(right, 2)
            disparity = F.avg_pool2d(disparity[:, None], 2)[:, 0] / 2.0
        warped, inside = warp_right(right, disparity)
        mask = inside & has_right[:, None, None]
        difference = (warped - left).abs().mean(dim=1)
        photometric = photometric + (difference * mask).sum() / mask.sum().clamp(min=1)
        smooth = smooth + smoothness(disparity.log(), left)
    return photometric / scales, smooth / scales


def warp_right(right: Tensor, disparity: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruct the left image from the right one: left(x) = right(x - d(x)).

    Args:
        right: float [B,3,H,W].
        disparity: float [B,H,W], pixels.

    Returns:
        warped float [B,3,H,W], and bool [B,H,W]: whether the sample lies inside the right image.
    """
    _, _, height, width = right.shape
    xs = torch.arange(width, dtype=torch.float32, device=disparity.device) - disparity  # [B,H,W]
    ys = torch.arange(height, dtype=torch.float32, device=disparity.device)[None, :, None].expand_as(xs)
    grid = torch.stack([(2.0 * xs + 1.0) / width - 1.0, (2.0 * ys + 1.0) / height - 1.0], dim=-1)
    warped = F.grid_sample(right, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped, xs >= 0


def smoothness(log_disparity: Tensor, image: Tensor) -> Tensor:
    """Edge-aware smoothness: mean |dx log d| exp(-10 |dx I|), plus y; [B,H,W] and [B,3,H,W] in 0..1 -> scalar."""
    total = torch.zeros((), device=log_disparity.device)
    for dim in (1, 2):
        step_d = log_disparity.diff(dim=dim).abs()
        step_i = image.diff(dim=dim + 1).abs().mean(dim=1)
        total = total + (step_d * torch.exp(-10.0 * step_i)).mean()
    return total
