"""Classifiers on 100 classes of small images, sized for training on two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from models.arch.config import ArchConfig
from models.binarize.base import Phase
from models.train.recipe import CLASSES_LIMIT, PhaseSpec, Recipe

_TINY_DATA = "tiny100a: 100 ImageNet-1k classes, 49,979 training JPEGs of 64x64; 25 a class held out to choose by"
_TINY_TERMS = "non-commercial research only (ImageNet's terms)"
_TINY_LIMITS = (
    CLASSES_LIMIT,
    "Trained on 64x64 images and on whole objects in the centre: small objects in a large photo are lost.",
    "{calibration}",
)
_TINY = "ours: 100 ImageNet classes at 64x64, two CPU cores"

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
    limits=_TINY_LIMITS,
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
    limits=_TINY_LIMITS,
    init="resnet18-tiny100",
    teacher="resnet18-tiny100",
)


def _baseline(method: str, structure: str, fresh: str = "nothing", **options: object) -> Recipe:
    """A baseline method of the paper, with the data and teacher of `bireal18-tiny100` but no clip pre-training.

    BinaryNet, XNOR-Net and ABC-Net use the ResNet structure and start from the ReLU network. ``fresh`` describes the
    tensors without a counterpart in it.
    """
    binary = tuple(phase for phase in _TINY_BIREAL18.phases if not phase.phase.real_valued)
    first = replace(
        binary[0], epochs=binary[0].epochs + sum(p.epochs for p in _TINY_BIREAL18.phases if p.phase.real_valued)
    )
    arch = replace(_TINY_BIREAL18.arch, method=method, structure=structure, options=options)
    source = f"{_TINY}; from the network with ReLU, fresh: {fresh}"
    return replace(_TINY_BIREAL18, name=f"{method}18-tiny100", arch=arch, phases=(first, *binary[1:]), source=source)


_LONG = "ours: 100 ImageNet classes of 64x64, labels of an adapted ImageNet network for six crops of every image"

_LONG_RESNET18 = Recipe(
    name="resnet18-tiny100-long",
    arch=ArchConfig(depth=18, method="none", num_classes=100),
    phases=(
        PhaseSpec(Phase.RELU, 4, 0.1, "sgd", "cosine-head", weight_decay=2e-4, warmup=0.03, size=48, distill=0.9),
        PhaseSpec(Phase.RELU, 3, 0.05, "sgd", "cosine", weight_decay=2e-4, distill=0.9),
    ),
    batch=128,
    source=_LONG,
    data=_TINY_DATA,
    terms=_TINY_TERMS,
    limits=_TINY_LIMITS,
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
    phases=(PhaseSpec(Phase.BINARY, 6, 5e-4, "adam", "linear", warmup=0.03, distill=0.9),),
    batch=128,
    source=_LONG,
    data=_TINY_DATA,
    terms=_TINY_TERMS,
    limits=_TINY_LIMITS,
    init="bireal18-tiny100",
    twin="resnet18-tiny100",
    soft_labels=True,
    views=6,
    temperature=2.0,
    size=64,
    serve_size=64,
    label_smoothing=0.0,
)

_LARGE = "ours: the network before, trained on with the 64x64 images scaled up to 96x96 and 112x112, served at 128x128"

# Random crops make objects larger than in the whole image, so the serving size is above the training size.
_LARGE_RESNET18 = replace(
    _LONG_RESNET18,
    name="resnet18-tiny100-large",
    phases=(
        PhaseSpec(Phase.RELU, 2, 0.05, "sgd", "cosine-head", weight_decay=2e-4, warmup=0.03, size=96, distill=0.9),
        PhaseSpec(Phase.RELU, 3, 0.025, "sgd", "cosine", weight_decay=2e-4, distill=0.9),
    ),
    source=_LARGE,
    init="resnet18-tiny100-long",
    size=112,
    serve_size=128,
)

_LARGE_BIREAL18 = replace(
    _LONG_BIREAL18,
    name="bireal18-tiny100-large",
    phases=(
        PhaseSpec(Phase.BINARY, 2, 5e-4, "adam", "cosine-head", warmup=0.03, size=96, distill=0.9),
        PhaseSpec(Phase.BINARY, 3, 2.5e-4, "adam", "linear", distill=0.9),
    ),
    source=_LARGE,
    init="bireal18-tiny100-long",
    size=112,
    serve_size=128,
)

_FURTHER = "ours: the network before, trained on with labels of a new teacher for larger crops, at 80x80 and 112x112"

# Crops of at least half the image are more like the whole images that the service sees.
_FURTHER_RESNET18 = replace(
    _LARGE_RESNET18,
    name="resnet18-tiny100-further",
    phases=(
        PhaseSpec(Phase.RELU, 5, 0.05, "sgd", "cosine-head", weight_decay=2e-4, warmup=0.03, size=80, distill=0.9),
        PhaseSpec(Phase.RELU, 4, 0.025, "sgd", "cosine", weight_decay=2e-4, distill=0.9),
    ),
    source=_FURTHER,
    init="resnet18-tiny100-large",
    views=8,
    min_scale=0.5,
)

_FURTHER_BIREAL18 = replace(
    _LARGE_BIREAL18,
    name="bireal18-tiny100-further",
    phases=(
        PhaseSpec(Phase.BINARY, 6, 5e-4, "adam", "cosine-head", warmup=0.03, size=80, distill=0.9),
        PhaseSpec(Phase.BINARY, 3, 2.5e-4, "adam", "linear", distill=0.9),
    ),
    source=_FURTHER,
    init="bireal18-tiny100-large",
    views=8,
    min_scale=0.5,
)

_AGAIN = "ours: the network before, trained on in the same way with labels for other crops"

_AGAIN_RESNET18 = replace(
    _FURTHER_RESNET18,
    name="resnet18-tiny100-again",
    phases=(
        PhaseSpec(Phase.RELU, 4, 0.04, "sgd", "cosine-head", weight_decay=2e-4, warmup=0.03, size=80, distill=0.9),
        PhaseSpec(Phase.RELU, 4, 0.02, "sgd", "cosine", weight_decay=2e-4, distill=0.9),
    ),
    source=_AGAIN,
    init="resnet18-tiny100-further",
    views=7,
    first_view=14,
)

_AGAIN_BIREAL18 = replace(
    _FURTHER_BIREAL18,
    name="bireal18-tiny100-again",
    phases=(
        PhaseSpec(Phase.BINARY, 4, 5e-4, "adam", "cosine-head", warmup=0.03, size=80, distill=0.9),
        PhaseSpec(Phase.BINARY, 6, 2.5e-4, "adam", "linear", distill=0.9),
    ),
    source=_AGAIN,
    init="bireal18-tiny100-further",
    views=6,
    first_view=8,
)

#: ApproxSign passes no gradient beyond 1, where half of this network's activations are (docs/adr/0072).
_SCALED_BIREAL18 = replace(
    _AGAIN_BIREAL18,
    name="bireal18-tiny100-scaled",
    phases=(
        PhaseSpec(Phase.BINARY, 4, 5e-4, "adam", "cosine-head", warmup=0.05, size=80, distill=0.9),
        PhaseSpec(Phase.BINARY, 5, 2.5e-4, "adam", "linear", distill=0.9),
    ),
    source="ours: the network before, trained on in the same way with scaled streams and labels for other crops",
    init="bireal18-tiny100-again",
    views=7,
    first_view=14,
    stream_rms=0.9,
)

_MORE_RESNET18 = replace(
    _AGAIN_RESNET18,
    name="resnet18-tiny100-more",
    phases=(
        PhaseSpec(Phase.RELU, 3, 0.03, "sgd", "cosine-head", weight_decay=2e-4, warmup=0.03, size=80, distill=0.9),
        PhaseSpec(Phase.RELU, 5, 0.02, "sgd", "cosine", weight_decay=2e-4, distill=0.9),
    ),
    init="resnet18-tiny100-again",
    views=8,
    first_view=21,
)

#: No return to 5e-4, which costs this network 20 points that it then takes five epochs to learn again.
_MORE_BIREAL18 = replace(
    _AGAIN_BIREAL18,
    name="bireal18-tiny100-more",
    phases=(PhaseSpec(Phase.BINARY, 7, 2e-4, "adam", "linear", warmup=0.02, distill=0.9),),
    source="ours: the network before, trained on at 112x112 at a lower rate with labels for other crops",
    init="bireal18-tiny100-scaled",
    views=8,
    first_view=21,
)

_GROWN = "ours: the 18 layers, grown to 34 of the same function (ADR 70), trained on at 112x112 with a teacher's labels"

_GROWN_RESNET34 = replace(
    _FURTHER_RESNET18,
    name="resnet34-tiny100-grown",
    arch=ArchConfig(depth=34, method="none", num_classes=100),
    phases=(PhaseSpec(Phase.RELU, 2, 0.02, "sgd", "cosine", weight_decay=2e-4, warmup=0.05, distill=0.9),),
    source=_GROWN,
    init="resnet18-tiny100-further",
    views=3,
)

_GROWN_BIREAL34 = replace(
    _FURTHER_BIREAL18,
    name="bireal34-tiny100-grown",
    arch=ArchConfig(depth=34, method="bireal", num_classes=100),
    phases=(PhaseSpec(Phase.BINARY, 3, 4e-4, "adam", "linear", warmup=0.05, distill=0.9),),
    source=_GROWN,
    init="bireal18-tiny100-further",
    twin="resnet34-tiny100",
    views=3,
)

_TINY_RESNET50 = replace(
    _LONG_RESNET18,
    name="resnet50-tiny100",
    arch=ArchConfig(depth=50, method="none", num_classes=100),
    phases=(PhaseSpec(Phase.RELU, 5, 0.1, "sgd", "cosine", weight_decay=1e-4, warmup=0.05, size=48, distill=0.9),),
    source="ours: an encoder for the depth network; five passes over 100 ImageNet classes at 48x48",
    init="",
)

_HALF_RESNET50 = Recipe(
    name="resnet50-half-tiny100",
    arch=ArchConfig(depth=50, method="none", num_classes=100, width=0.5),
    phases=(PhaseSpec(Phase.RELU, 2, 1e-3, "adam", weight_decay=1e-5, warmup=0.05),),
    batch=32,
    source="ours: an encoder for the depth network; 61,000 crops of 100 ImageNet classes at 96x96, labels and hints",
    data=_TINY_DATA,
    terms=_TINY_TERMS,
    hints=20.0,
    size=96,
    epoch_steps=960,
)

#: The shipped depth network's encoder, trained on with hints of sharper pictures.
_HALF_RESNET50_MOSAICS = Recipe(
    name="resnet50-half-mosaics",
    arch=_HALF_RESNET50.arch,
    phases=(PhaseSpec(Phase.RELU, 6, 8e-4, "adam", weight_decay=1e-5, warmup=0.05),),
    batch=4,
    source="ours: the encoder of a depth network, trained on with hints on 23,000 mosaics of photos",
    data=_TINY_DATA,
    terms=_TINY_TERMS,
    init="resnet50-half-kitti-depth-long",
    hints=1.0,
    mosaics=True,
    min_scale=0.5,
    epoch_steps=960,
)

#: More of the same, at a lower rate: the correlation was still rising when the run above ended.
_HALF_RESNET50_MOSAICS_LONG = replace(
    _HALF_RESNET50_MOSAICS,
    name="resnet50-half-mosaics-long",
    phases=(PhaseSpec(Phase.RELU, 8, 6e-4, "adam", weight_decay=1e-5, warmup=0.05),),
    source="ours: the same encoder, trained on with hints on 31,000 more mosaics",
    init="resnet50-half-mosaics",
)

#: The same for the 1-bit encoder: binarised where pictures are many, before it sees the few streets.
_HALF_BIREAL50_MOSAICS = replace(
    _HALF_RESNET50_MOSAICS,
    name="bireal50-half-mosaics",
    arch=ArchConfig(depth=50, method="bireal", num_classes=100, width=0.5),
    phases=(
        PhaseSpec(Phase.LEAKY_CLIP, 1, 5e-4, "adam", "cosine-head", warmup=0.1),
        PhaseSpec(Phase.CLIP, 1, 5e-4, "adam", "cosine-head"),
        PhaseSpec(Phase.BINARY_1X1, 2, 1e-3, "adam", "cosine-head"),
        PhaseSpec(Phase.BINARY, 10, 1e-3, "adam"),
    ),
    source="ours: the encoder of a 1-bit depth network, binarised with hints on 27,000 mosaics of photos",
    init="resnet50-half-mosaics",
    epoch_steps=480,
)

#: More of the same from the 1-bit depth network, with streams that gradients pass from the first step (docs/adr/0072).
_HALF_BIREAL50_MOSAICS_AGAIN = replace(
    _HALF_BIREAL50_MOSAICS,
    name="bireal50-half-mosaics-again",
    phases=(PhaseSpec(Phase.BINARY, 8, 1e-3, "adam", warmup=0.05),),
    source="ours: the same 1-bit encoder, trained on with scaled streams and hints on 15,000 more mosaics",
    init="bireal50-half-kitti-depth-further",
    stream_rms=0.9,
)

_TINY_BIREAL50 = replace(
    _LONG_BIREAL18,
    name="bireal50-tiny100",
    arch=ArchConfig(depth=50, method="bireal", num_classes=100),
    phases=(
        PhaseSpec(Phase.LEAKY_CLIP, 1, 1e-3, "adam", "cosine-head", warmup=0.1, size=48, distill=0.9),
        PhaseSpec(Phase.CLIP, 1, 1e-3, "adam", "cosine-head", size=48, distill=0.9),
        PhaseSpec(Phase.BINARY_1X1, 2, 1e-3, "adam", "cosine-head", size=48, distill=0.9),
        PhaseSpec(Phase.BINARY, 4, 1e-3, "adam", "linear", size=48, distill=0.9),
    ),
    source="ours: the paper's two steps for bottlenecks, on 100 ImageNet classes at 48x48",
    init="resnet50-tiny100",
    twin="",
)

_TINY_BIREAL34 = replace(
    _TINY_BIREAL18,
    name="bireal34-tiny100",
    arch=replace(_TINY_BIREAL18.arch, depth=34),
    init="resnet34-tiny100",
    teacher="resnet34-tiny100",
)

TINY = (
    _TINY_RESNET18,
    _TINY_BIREAL18,
    _baseline("binarynet", "res"),
    _baseline("xnornet", "res", "BatchNorms before the sign (80 of 122 tensors)"),
    _baseline("abcnet", "res", "activation bases (32 of 154 tensors)", weight_bases=3, activation_bases=1),
    _TINY_BIREAL34,
    replace(_TINY_RESNET18, name="resnet34-tiny100", arch=replace(_TINY_RESNET18.arch, depth=34)),
    _LONG_RESNET18,
    _LONG_BIREAL18,
    _LARGE_RESNET18,
    _LARGE_BIREAL18,
    _FURTHER_RESNET18,
    _FURTHER_BIREAL18,
    _AGAIN_RESNET18,
    _AGAIN_BIREAL18,
    _SCALED_BIREAL18,
    _MORE_RESNET18,
    _MORE_BIREAL18,
    _GROWN_RESNET34,
    _GROWN_BIREAL34,
    _TINY_RESNET50,
    _TINY_BIREAL50,
    _HALF_RESNET50,
    _HALF_RESNET50_MOSAICS,
    _HALF_RESNET50_MOSAICS_LONG,
    _HALF_BIREAL50_MOSAICS,
    _HALF_BIREAL50_MOSAICS_AGAIN,
)
