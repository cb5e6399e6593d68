"""Classification: batches, loss and held-out accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.data.augment import whole
from models.data.folder import ImageSet, hold_out, load_split, split_files, training_batches
from models.data.normalise import normalise
from models.data.shorter_side import shorter_side_batches
from models.data.views import VIEW_SEED, labels_path, view_batches, view_crops
from models.train.device import best_device, bfloat16_where_fast, device_of
from models.train.hints import hints_of
from models.train.pretrained import feature_maps, imagenet_network
from models.train.recipe import PhaseSpec, Recipe

DECODE_SIZE = 64


def decode_size(recipe: Recipe) -> int:
    """Side in pixels of the square that images are decoded to before cropping."""
    return DECODE_SIZE if recipe.soft_labels else max(DECODE_SIZE, recipe.size)


def served_shorter(recipe: Recipe, size: int) -> int:
    """Shorter side that the service scales images to for an input of ``size``; 0 if it is the input's."""
    return round(recipe.resize_shorter * size / recipe.size)


def held_out_as_served(held_out: ImageSet, recipe: Recipe, data: Path, size: int) -> ImageSet:
    """The held-out images as the service would prepare them for an input of ``size``.

    Only recipes with a ``resize_shorter`` need another decoding: `load_split` decodes whole images to a square, which
    squashes them, and the service crops the centre. The others' images are square already and are scaled by `accuracy`.
    """
    shorter = served_shorter(recipe, size)
    if not shorter:
        return held_out
    files = split_files(data, "train", size, shorter)
    return hold_out(files, recipe.hold_out_per_class)[1]


class SoftLabels:
    """A teacher's logits for fixed views of every training image, as written by `models.train.teacher`.

    Args:
        folder: output folder of `models.train.teacher`, with a file per view, float16 [images,classes] each, loaded on
            first use.
        min_scale: smallest fraction of the area in the crops that are the views.
        images: expected number of images per file.
    """

    def __init__(self, folder: Path, min_scale: float, images: int) -> None:
        self._folder = folder
        self._min_scale = min_scale
        self._images = images
        self._logits: dict[int, Tensor] = {}

    def __call__(self, view: int, index: Tensor) -> Tensor:
        """Logits float32 [B,classes] for view number ``view`` of the images at ``index`` [B].

        Raises:
            FileNotFoundError: the view has no labels.
            ValueError: the labels belong to other data.
        """
        if view not in self._logits:
            path = labels_path(self._folder, self._min_scale, view)
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing: run `python -m models.train.teacher` with --first-view {view}, --views for "
                    f"the number of views from there on, and --min-scale {self._min_scale:g}"
                )
            logits = torch.from_numpy(np.load(path))
            if len(logits) != self._images:
                raise ValueError(f"{path} labels {len(logits)} images, but the training set has {self._images}")
            self._logits[view] = logits
        return self._logits[view][index].float()


def check_classes(recipe: Recipe, data: Path, train: ImageSet) -> None:
    """Check that every output of the network has a class to learn, and every class images.

    Args:
        recipe: the recipe of the run.
        data: the folder of the images.
        train: the images without those that are held out.

    Raises:
        ValueError: the number of classes is not that of the network, or all images of a class are held out.
    """
    found, outputs = len(train.classes), recipe.arch.num_classes
    if found != outputs:
        raise ValueError(
            f"{data} has {found} classes (*classes.json), but the network of recipe {recipe.name} has {outputs} "
            f"outputs: give data of {outputs} classes, or add a recipe with num_classes={found} (models/train/recipes)"
        )
    counts = np.bincount(train.labels, minlength=found)
    if not counts.all():
        wnid = train.classes[int(counts.argmin())].wnid
        raise ValueError(
            f"{data / 'train' / wnid} has no more than the {recipe.hold_out_per_class} images that recipe "
            f"{recipe.name} holds out of each class, so nothing of it would be learned: give more"
        )


class ClassifyTask:
    """Image-folder data with a held-out set; cross-entropy loss, optionally with distillation from a teacher.

    Args:
        recipe: the recipe of the run.
        data: folder with train/.
        teacher: network that labels every batch, or None.
        soft_labels: folder with a teacher's labels, or None.

    Raises:
        ValueError: the recipe uses distillation and there is no teacher, or the training images do not fill a batch.
    """

    metric = "top1"

    def __init__(
        self, recipe: Recipe, data: Path, teacher: nn.Module | None = None, soft_labels: Path | None = None
    ) -> None:
        if any(p.distill > 0 for p in recipe.phases):
            if recipe.soft_labels and soft_labels is None:
                raise ValueError(
                    f"recipe {recipe.name} uses distillation: give --soft-labels DIR (python -m models.train.teacher)"
                )
            if not recipe.soft_labels and teacher is None:
                raise ValueError(f"recipe {recipe.name} uses distillation: give its teacher with --teacher CHECKPOINT")
        load = split_files if recipe.shorter_sides else load_split
        everything = load(data, "train", decode_size(recipe))
        self.train, held_out = hold_out(everything, recipe.hold_out_per_class)
        if len(self.train) < recipe.batch:
            raise ValueError(
                f"{data}: {len(self.train)} training images do not fill one batch of {recipe.batch} (recipe "
                f"{recipe.name}), so nothing would be trained: besides the {recipe.hold_out_per_class} images that "
                f"are held out of each class ({len(held_out)} here), give at least {recipe.batch}"
            )
        self.served_size = recipe.serve_size or recipe.size
        self.held_out = held_out_as_served(held_out, recipe, data, self.served_size)
        self.recipe = recipe
        self.teacher = teacher
        self.pretrained = imagenet_network().eval().to(best_device()) if recipe.hints > 0 else None
        self.soft_labels: SoftLabels | None = None
        if recipe.soft_labels:
            assert soft_labels is not None
            self.soft_labels = SoftLabels(soft_labels, recipe.min_scale, len(self.train))

    def steps_per_epoch(self) -> int:
        """Full batches in one pass, limited by the recipe's ``epoch_steps``."""
        whole = len(self.train) // self.recipe.batch
        return min(whole, self.recipe.epoch_steps or whole)

    def batches(self, spec: PhaseSpec, epoch: int, first_step: int) -> Iterator[tuple[Tensor, ...]]:
        """See `_pass`; at most `steps_per_epoch` batches."""
        return islice(self._pass(spec, epoch, first_step), max(0, self.steps_per_epoch() - first_step))

    def _pass(self, spec: PhaseSpec, epoch: int, first_step: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches of one epoch, starting at ``first_step``.

        A batch is (images 0..255 [B,3,S,S], labels [B]), plus the teacher's logits [B,classes] with soft labels.
        """
        recipe = self.recipe
        size = spec.size or recipe.size
        if recipe.shorter_sides:
            low, high = (round(side * size / recipe.size) for side in recipe.shorter_sides)
            yield from shorter_side_batches(
                self.train,
                batch=recipe.batch,
                size=size,
                sides=(low, high),
                seed=recipe.seed,
                epoch=epoch,
                first_step=first_step,
            )
            return
        if self.soft_labels is None:
            yield from training_batches(
                self.train,
                batch=recipe.batch,
                size=size,
                min_scale=recipe.min_scale,
                seed=recipe.seed,
                epoch=epoch,
                first_step=first_step,
            )
            return
        view = recipe.first_view + epoch % recipe.views
        crops = view_crops(len(self.train), recipe.min_scale, VIEW_SEED, view)
        for images, labels, index in view_batches(
            self.train,
            crops,
            batch=recipe.batch,
            size=size,
            seed=recipe.seed,
            epoch=epoch,
            first_step=first_step,
        ):
            yield (images, labels, self.soft_labels(view, index)) if spec.distill > 0 else (images, labels)

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...], spec: PhaseSpec) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss and metrics to log, which stay on the device."""
        images, labels, *soft = batch
        x = normalise(images)
        with bfloat16_where_fast(x.device, wanted=self.recipe.bf16):
            logits = network(x)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if spec.distill > 0:
            heat = self.recipe.temperature
            target = soft[0] if soft else self._answers(x)
            # heat**2 makes the gradient's magnitude independent of the temperature (Hinton et al. 2015)
            distance = F.cross_entropy(logits / heat, (target / heat).softmax(dim=1)) * heat**2
            loss = (1.0 - spec.distill) * loss + spec.distill * distance
        figures = {"train_top1": (logits.argmax(1) == labels).float().mean()}
        if self.pretrained is not None:
            with torch.no_grad():
                theirs = feature_maps(self.pretrained, images)
            hints = hints_of(network)(theirs)
            loss = loss + self.recipe.hints * hints
            figures["hints"] = hints.detach()
        return loss, figures

    @torch.no_grad()
    def _answers(self, x: Tensor) -> Tensor:
        assert self.teacher is not None
        with bfloat16_where_fast(x.device, wanted=self.recipe.bf16):
            logits: Tensor = self.teacher(x)
        return logits.float()

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Top-1 and top-5 (fractions) on the held-out set, for images prepared as by the service."""
        return accuracy(network, self.held_out, self.served_size)


def ranks_of_truth(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of other classes whose logit is not strictly below the true one: [B,C] and [B] to int64 [B].

    Ties count against the network, and so does NaN: an uninformative prediction is wrong.
    """
    return (~(logits < logits.gather(1, labels[:, None]))).sum(1) - 1


@torch.no_grad()
def accuracy(network: nn.Module, data: ImageSet, size: int = 0, batch: int = 100) -> dict[str, float]:
    """Top-1 and top-5 (fractions 0..1) of float32 inference on images scaled to ``size`` (0 keeps their size).

    Raises:
        ValueError: the data have more classes than the network.
    """
    network.eval()
    device = device_of(network)
    ranks = []
    for start in range(0, len(data), batch):
        x = whole(torch.from_numpy(data.images[start : start + batch]), size)
        labels = torch.from_numpy(data.labels[start : start + batch])
        logits = network(normalise(x.to(device))).cpu()
        if logits.shape[1] < len(data.classes):
            raise ValueError(f"the network has {logits.shape[1]} classes, but the data have {len(data.classes)}")
        ranks.append(ranks_of_truth(logits, labels))
    rank = torch.cat(ranks)
    return {f"top{k}": int((rank < k).sum()) / len(data) for k in (1, 5)}
