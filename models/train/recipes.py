"""The recipes by name. ``paper-*`` are the paper's hyper-parameters; the others are ours for small data and CPUs."""

from __future__ import annotations

from dataclasses import replace

from models.arch.config import ArchConfig
from models.binarize.base import Phase
from models.train.recipe import DepthLoss, PhaseSpec, Recipe

DEPTH_TEACHER = "pretrained-kitti-depth"

_TINY_DATA = "tiny100a: 100 ImageNet-1k classes, 49,979 training JPEGs of 64x64; 25 a class held out to choose by"
_TINY_TERMS = "non-commercial research only (ImageNet's terms)"
_KITTI_DATA = (
    "KITTI: 154 stereo pairs of drive 2011_09_26_0005 and 39 single frames of that day with LiDAR, 29 pairs of "
    "KITTI 2015 with ground-truth disparity; the last 15, 8 and 5 frames of these held out to choose by"
)
_KITTI_TERMS = "non-commercial use only, share alike (KITTI's CC BY-NC-SA 3.0)"
_IMAGENET_TERMS = "ImageNet's terms: non-commercial research"
_PAPER = "paper Sec. 4.1 (ImageNet)"
_TINY = "ours: 100 ImageNet classes at 64x64, two CPU cores"
_KITTI = (
    "ours: 222 KITTI frames; departs from paper Sec. 4.5 by augmentation, a LiDAR term, a teacher of depth, Adam and far "
    "fewer steps"
)

_TINY_RESNET18 = Recipe(
    name="resnet18-tiny100",
    arch=ArchConfig(depth=18, method="none", num_classes=100),
    phases=(
        PhaseSpec(Phase.RELU, 4, 0.2, "sgd", schedule="cosine-head", weight_decay=5e-4, warmup=0.1, size=48),
        PhaseSpec(Phase.RELU, 5, 0.1, "sgd", weight_decay=5e-4),
    ),
    batch=128,
    source=_TINY,
    data=_TINY_DATA,
    terms=_TINY_TERMS,
)

_TINY_BIREAL18 = Recipe(
    name="bireal18-tiny100",
    arch=ArchConfig(depth=18, method="bireal", num_classes=100),
    phases=(
        PhaseSpec(Phase.LEAKY_CLIP, 1, 1e-3, "adam", schedule="cosine-head", warmup=0.1, size=48, distill=0.5),
        PhaseSpec(Phase.CLIP, 1, 1e-3, "adam", schedule="cosine-head", size=48, distill=0.5),
        PhaseSpec(Phase.BINARY, 4, 2e-3, "adam", schedule="cosine-head", warmup=0.05, size=48, distill=0.5),
        PhaseSpec(Phase.BINARY, 3, 1e-3, "adam", distill=0.5),
    ),
    batch=128,
    source=_TINY,
    data=_TINY_DATA,
    terms=_TINY_TERMS,
    init="resnet18-tiny100",
    teacher="resnet18-tiny100",
)


def _baseline(method: str, structure: str, **options: object) -> Recipe:
    """A method that the paper compares with: phases, data and teacher of `bireal18-tiny100`, but no clip pre-training.

    BinaryNet, XNOR-Net and ABC-Net start from the network with ReLU and have the ResNet's structure.
    """
    binary = tuple(phase for phase in _TINY_BIREAL18.phases if not phase.phase.real_valued)
    first = replace(
        binary[0], epochs=binary[0].epochs + sum(p.epochs for p in _TINY_BIREAL18.phases if p.phase.real_valued)
    )
    arch = replace(_TINY_BIREAL18.arch, method=method, structure=structure, options=options)
    return replace(_TINY_BIREAL18, name=f"{method}18-tiny100", arch=arch, phases=(first, *binary[1:]))


_LONG = "ours: 100 ImageNet classes of 64x64, labels of an adapted ImageNet network for six crops of every image"

_LONG_RESNET18 = Recipe(
    name="resnet18-tiny100-long",
    arch=ArchConfig(depth=18, method="none", num_classes=100),
    phases=(
        PhaseSpec(Phase.RELU, 8, 0.1, "sgd", "cosine-head", weight_decay=2e-4, warmup=0.03, size=48, distill=0.9),
        PhaseSpec(Phase.RELU, 16, 0.05, "sgd", "cosine", weight_decay=2e-4, distill=0.9),
    ),
    batch=128,
    source=_LONG,
    data=_TINY_DATA,
    terms=_TINY_TERMS,
    init="resnet18-tiny100",
    soft_labels=True,
    views=6,
    temperature=2.0,
    size=64,
    serve_size=64,
    label_smoothing=0.0,
)

_LONG_BIREAL18 = Recipe(
    name="bireal18-tiny100-long",
    arch=ArchConfig(depth=18, method="bireal", num_classes=100),
    phases=(
        PhaseSpec(Phase.BINARY, 8, 1.5e-3, "adam", "cosine-head", warmup=0.03, size=48, distill=0.9),
        PhaseSpec(Phase.BINARY, 10, 8e-4, "adam", "linear", distill=0.9),
        PhaseSpec(Phase.BINARY, 1, 1e-4, "adam", "linear", distill=0.9, batchnorm_only=True),
    ),
    batch=128,
    source=_LONG,
    data=_TINY_DATA,
    terms=_TINY_TERMS,
    init="bireal18-tiny100",
    twin="resnet18-tiny100",
    soft_labels=True,
    views=6,
    temperature=2.0,
    size=64,
    serve_size=64,
    label_smoothing=0.0,
)

_TINY_RESNET50 = replace(
    _LONG_RESNET18,
    name="resnet50-tiny100",
    arch=ArchConfig(depth=50, method="none", num_classes=100),
    phases=(PhaseSpec(Phase.RELU, 5, 0.1, "sgd", "cosine", weight_decay=1e-4, warmup=0.05, size=48, distill=0.9),),
    source="ours: an encoder for the depth network; five passes over 100 ImageNet classes at 48x48",
    init="",
)

_TINY_BIREAL34 = replace(
    _TINY_BIREAL18,
    name="bireal34-tiny100",
    arch=replace(_TINY_BIREAL18.arch, depth=34),
    init="resnet34-tiny100",
    teacher="resnet34-tiny100",
)

_KITTI_LOSS = DepthLoss(scales=3, colour=0.4, max_zoom=1.4)

_KITTI_TEACHER = Recipe(
    name=DEPTH_TEACHER,
    arch=ArchConfig(depth=50, method="none", task="depth", max_disparity_px=90.0),
    phases=(PhaseSpec(Phase.RELU, 10, 4e-4, "adam", warmup=0.05, weight_decay=1e-4),),
    batch=8,
    source="ours: an ImageNet network that learns depth from the same frames, to distil from",
    data=_KITTI_DATA,
    terms=_KITTI_TERMS,
    epoch_steps=100,
    depth=_KITTI_LOSS,
)

_KITTI_RESNET50 = Recipe(
    name="resnet50-kitti-depth",
    arch=ArchConfig(depth=50, method="none", task="depth", max_disparity_px=90.0),
    phases=(PhaseSpec(Phase.RELU, 16, 5e-4, "adam", warmup=0.05, weight_decay=1e-4, distill=0.6),),
    batch=6,
    source=_KITTI,
    data=_KITTI_DATA,
    terms=_KITTI_TERMS,
    init="resnet50-tiny100",
    teacher=DEPTH_TEACHER,
    epoch_steps=100,
    depth=_KITTI_LOSS,
)

_KITTI_BIREAL50 = Recipe(
    name="bireal50-kitti-depth",
    arch=ArchConfig(depth=50, method="bireal", task="depth", max_disparity_px=90.0),
    phases=(
        PhaseSpec(Phase.LEAKY_CLIP, 1, 5e-4, "adam", schedule="cosine-head", warmup=0.1, distill=0.7),
        PhaseSpec(Phase.CLIP, 2, 5e-4, "adam", schedule="cosine-head", distill=0.7),
        PhaseSpec(Phase.BINARY_1X1, 2, 1e-3, "adam", schedule="cosine-head", distill=0.7),
        PhaseSpec(Phase.BINARY, 9, 1e-3, "adam", distill=0.7),
    ),
    batch=6,
    source=_KITTI,
    data=_KITTI_DATA,
    terms=_KITTI_TERMS,
    init="resnet50-kitti-depth",
    teacher=DEPTH_TEACHER,
    epoch_steps=100,
    depth=_KITTI_LOSS,
)

#: The same phases without clip pre-training, in the ResNet's structure: what the paper's Table 6 compares with.
_KITTI_BINARYNET50 = replace(
    _KITTI_BIREAL50,
    name="binarynet50-kitti-depth",
    arch=replace(_KITTI_BIREAL50.arch, method="binarynet", structure="res"),
    phases=(PhaseSpec(Phase.BINARY, 14, 1e-3, "adam", warmup=0.02, distill=0.7),),
)

_PAPER_KITTI = Recipe(
    name="paper-resnet50-kitti-depth",
    arch=_KITTI_RESNET50.arch,
    phases=(PhaseSpec(Phase.RELU, 60, 1e-3, "sgd", "step", milestones=(30,)),),
    batch=10,
    source="paper Sec. 4.5: 60,000 steps of 10 stereo pairs of 160x608, not augmented; loss of Garg et al. 2016",
    data="KITTI raw, the pairs of the Eigen split's training list",
    terms=_KITTI_TERMS,
    epoch_steps=1000,
    bf16=False,
    depth=DepthLoss(
        lidar=0.0, photometric=1.0, smooth=0.01, crop_width=608, mirror=False, max_zoom=1.0, colour=0.0, diverse=()
    ),
)


def _paper(depth: int, batch: int, epochs: int, lr: float, milestones: tuple[int, int]) -> Recipe:
    """Paper Sec. 4.1; bottlenecks take the two-step scheme, each sub-step of ``epochs``."""
    binary = PhaseSpec(Phase.BINARY, epochs, lr, "sgd", "step", milestones)
    first = (PhaseSpec(Phase.BINARY_1X1, epochs, lr, "sgd", "step", milestones),) if depth >= 50 else ()
    retrain = PhaseSpec(Phase.BINARY, 1, lr * 0.01, "sgd", "step", batchnorm_only=True)
    pretrain = (
        PhaseSpec(Phase.LEAKY_CLIP, epochs, lr, "sgd", "step", milestones),
        PhaseSpec(Phase.CLIP, epochs, lr, "sgd", "step", milestones),
    )
    return Recipe(
        name=f"paper-bireal{depth}-imagenet",
        arch=ArchConfig(depth=depth),
        phases=(*pretrain, *first, binary, retrain),
        batch=batch,
        source=_PAPER,
        data="ImageNet-1k, 1.28 million training images",
        terms=_IMAGENET_TERMS,
        size=224,
        min_scale=0.75,
        label_smoothing=0.0,
        bf16=False,
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _TINY_RESNET18,
        _TINY_BIREAL18,
        _baseline("binarynet", "res"),
        _baseline("xnornet", "res"),
        _baseline("abcnet", "res", weight_bases=3, activation_bases=1),
        _TINY_BIREAL34,
        replace(_TINY_RESNET18, name="resnet34-tiny100", arch=replace(_TINY_RESNET18.arch, depth=34)),
        _LONG_RESNET18,
        _LONG_BIREAL18,
        _TINY_RESNET50,
        _KITTI_TEACHER,
        _KITTI_RESNET50,
        _KITTI_BIREAL50,
        _KITTI_BINARYNET50,
        _PAPER_KITTI,
        replace(
            _PAPER_KITTI,
            name="paper-bireal50-kitti-depth",
            arch=_KITTI_BIREAL50.arch,
            phases=tuple(
                replace(_PAPER_KITTI.phases[0], phase=phase)
                for phase in (Phase.LEAKY_CLIP, Phase.CLIP, Phase.BINARY_1X1, Phase.BINARY)
            ),
            init="paper-resnet50-kitti-depth",
        ),
        _paper(18, 128, 20, 0.01, (10, 15)),
        _paper(34, 1024, 40, 0.08, (20, 30)),
        _paper(50, 800, 100, 0.064, (50, 75)),
        _paper(152, 4000, 120, 0.1, (60, 90)),
    )
}


def get_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``.

    Raises:
        ValueError: if there is none; the message lists the names.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: use one of {', '.join(RECIPES)}")
    return RECIPES[name]


__all__ = ["RECIPES", "DepthLoss", "get_recipe"]
