"""Classification: batches, loss and held-out accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.data.folder import ImageSet, hold_out, load_split, training_batches
from models.data.normalise import normalise
from models.train.recipe import PhaseSpec, Recipe

DECODE_SIZE = 64


class ClassifyTask:
    """Image-folder data with a held-out part; loss = cross entropy, plus the teacher's softened answers."""

    metric = "top1"

    def __init__(self, recipe: Recipe, data: Path, teacher: nn.Module | None) -> None:
        everything = load_split(data, "train", max(DECODE_SIZE, recipe.size if recipe.size > 64 else 0))
        self.train, self.held_out = hold_out(everything, recipe.hold_out_per_class)
        self.recipe = recipe
        self.teacher = teacher
        if teacher is None and any(p.distill > 0 for p in recipe.phases):
            raise ValueError(f"recipe {recipe.name} distils: give its teacher with --teacher CHECKPOINT")

    def steps_per_epoch(self) -> int:
        """Full batches in one pass."""
        return len(self.train) // self.recipe.batch

    def batches(self, spec: PhaseSpec, epoch: int, first_step: int) -> Iterator[tuple[Tensor, ...]]:
        """Batches (images 0..255 [B,3,S,S], labels [B]) of one epoch from ``first_step`` on."""
        return training_batches(
            self.train,
            batch=self.recipe.batch,
            size=spec.size or self.recipe.size,
            min_scale=self.recipe.min_scale,
            seed=self.recipe.seed,
            epoch=epoch,
            first_step=first_step,
        )

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...], spec: PhaseSpec) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss and figures to log."""
        images, labels = batch
        x = normalise(images)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            logits = network(x)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if spec.distill > 0:
            assert self.teacher is not None
            with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.bf16):
                target = self.teacher(x).float().softmax(dim=1)
            loss = (1.0 - spec.distill) * loss + spec.distill * F.cross_entropy(logits, target)
        accuracy = (logits.argmax(1) == labels).float().mean().item()
        return loss, {"train_top1": accuracy}

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Top-1 and top-5 (fractions) on the held-out part, whole images at the decoded size."""
        return accuracy(network, self.held_out)


@torch.no_grad()
def accuracy(network: nn.Module, data: ImageSet, size: int = 0, batch: int = 100) -> dict[str, float]:
    """Top-1 and top-5 (fractions 0..1) of float32 inference, images scaled to ``size`` (0 = as they are)."""
    network.eval()
    top1 = top5 = 0
    for start in range(0, len(data), batch):
        x = torch.from_numpy(data.images[start : start + batch]).permute(0, 3, 1, 2).float()
        if size and size != x.shape[-1]:
            x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        labels = torch.from_numpy(data.labels[start : start + batch])
        logits = network(normalise(x))
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
        top1 += int((ranked[:, 0] == labels).sum())
        top5 += int((ranked == labels[:, None]).any(dim=1).sum())
    return {"top1": top1 / len(data), "top5": top5 / len(data)}
