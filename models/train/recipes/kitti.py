"""Depth on KITTI: the paper's recipe (Sec. 4.5), and ours for a few hundred frames."""

from __future__ import annotations

from dataclasses import replace

from models.arch.config import ArchConfig
from models.binarize.base import Phase
from models.train.recipe import CAMERA_LIMIT, DepthLoss, PhaseSpec, Recipe

DEPTH_TEACHER = "pretrained-kitti-depth"

_KITTI_DATA = (
    "KITTI: 154 stereo pairs of drive 2011_09_26_0005 and 39 left images of that day in a queue of cars, with LiDAR, "
    "and 29 pairs of KITTI 2015 with ground-truth disparity; the last 15 frames of the first and 5 of the last are "
    "held out to choose by"
)
_KITTI_TERMS = "non-commercial use only, share alike (KITTI's CC BY-NC-SA 3.0)"
_KITTI_LIMITS = (
    "Trained on a few hundred frames of a few streets of one city, in daylight: other scenes may be far off.",
    CAMERA_LIMIT,
    "Sky and the upper third of the image have no ground truth in training.",
)
_DEPARTURES = (
    "ours: 222 KITTI frames; departs from paper Sec. 4.5 by batches of 6 for 10; crops of 352 pixels for 608, "
    "mirrored, zoomed, recoloured, for none; Adam at 3e-4 to 1e-3 on a cosine with warm-up for 1e-3 "
    "that drops at half; weight decay 1e-4 of the full-precision network for none; bfloat16 for float32; the scenes of "
    "KITTI 2015 seen three times in a pass; a LiDAR term; photometric weight 0.5 for 1; smoothness 0.05, of the "
    "log disparity, for Garg et al.'s 0.01, of the disparity; far fewer steps"
)
_KITTI = f"{_DEPARTURES}; the 1-bit network learns from its twin's map, too"
_KITTI_TAUGHT = f"{_DEPARTURES}; both terms of the pair at three sizes, and a pretrained teacher's map"
_KITTI_HALF = (
    f"{_DEPARTURES}; half the channels; both terms of the pair at three sizes, and a pretrained teacher's map and "
    "feature maps"
)

_KITTI_TEACHER = Recipe(
    name=DEPTH_TEACHER,
    arch=ArchConfig(depth=50, method="none", task="depth", max_disparity_px=90.0),
    phases=(PhaseSpec(Phase.RELU, 10, 4e-4, "adam", warmup=0.05, weight_decay=1e-4),),
    batch=8,
    source="ours: an ImageNet network that learns depth from the same frames, to distil from",
    data=_KITTI_DATA,
    terms=_KITTI_TERMS,
    limits=_KITTI_LIMITS,
    epoch_steps=100,
    depth=DepthLoss(scales=3, colour=0.4, max_zoom=1.4),
)

# --- full width, from random weights ----------------------------------------------------------------------------------

_KITTI_RESNET50 = Recipe(
    name="resnet50-kitti-depth",
    arch=ArchConfig(depth=50, method="none", task="depth", max_disparity_px=90.0),
    phases=(PhaseSpec(Phase.RELU, 7, 5e-4, "adam", warmup=0.05, weight_decay=1e-4),),
    batch=6,
    source=_DEPARTURES,
    data=_KITTI_DATA,
    terms=_KITTI_TERMS,
    limits=_KITTI_LIMITS,
    depth=DepthLoss(swap=False, teacher_mirrored=False),
)

_KITTI_BIREAL50 = Recipe(
    name="bireal50-kitti-depth",
    arch=ArchConfig(depth=50, method="bireal", task="depth", max_disparity_px=90.0),
    phases=(
        PhaseSpec(Phase.LEAKY_CLIP, 1, 5e-4, "adam", schedule="cosine-head", warmup=0.1, distill=0.5),
        PhaseSpec(Phase.CLIP, 1, 5e-4, "adam", schedule="cosine-head", distill=0.5),
        PhaseSpec(Phase.BINARY_1X1, 1, 1e-3, "adam", schedule="cosine-head", distill=0.5),
        PhaseSpec(Phase.BINARY, 4, 1e-3, "adam", distill=0.5),
    ),
    batch=6,
    source=_KITTI,
    data=_KITTI_DATA,
    terms=_KITTI_TERMS,
    limits=_KITTI_LIMITS,
    init="resnet50-kitti-depth",
    teacher="resnet50-kitti-depth",
    depth=_KITTI_RESNET50.depth,
)

#: The baseline of the paper's Table 8: the same length without clip pre-training, in the ResNet structure.
_KITTI_BINARYNET50 = replace(
    _KITTI_BIREAL50,
    name="binarynet50-kitti-depth",
    arch=replace(_KITTI_BIREAL50.arch, method="binarynet", structure="res"),
    phases=(PhaseSpec(Phase.BINARY, 7, 1e-3, "adam", warmup=0.02, distill=0.5),),
)

# --- the same networks, distilled from a pretrained one (docs/adr/0060) -----------------------------------------------

_TAUGHT_RESNET50 = replace(
    _KITTI_RESNET50,
    name="resnet50-kitti-depth-taught",
    phases=(PhaseSpec(Phase.RELU, 16, 5e-4, "adam", warmup=0.05, weight_decay=1e-4, distill=0.6),),
    source=_KITTI_TAUGHT,
    init="resnet50-tiny100",
    teacher=DEPTH_TEACHER,
    epoch_steps=100,
    depth=_KITTI_TEACHER.depth,
)

_TAUGHT_BIREAL50 = replace(
    _KITTI_BIREAL50,
    name="bireal50-kitti-depth-taught",
    phases=(
        PhaseSpec(Phase.LEAKY_CLIP, 1, 5e-4, "adam", schedule="cosine-head", warmup=0.1, distill=0.7),
        PhaseSpec(Phase.CLIP, 2, 5e-4, "adam", schedule="cosine-head", distill=0.7),
        PhaseSpec(Phase.BINARY_1X1, 2, 1e-3, "adam", schedule="cosine-head", distill=0.7),
        PhaseSpec(Phase.BINARY, 9, 1e-3, "adam", distill=0.7),
    ),
    source=_KITTI_TAUGHT,
    init="resnet50-kitti-depth-taught",
    teacher=DEPTH_TEACHER,
    epoch_steps=100,
    depth=_KITTI_TEACHER.depth,
)

_TAUGHT_BINARYNET50 = replace(
    _TAUGHT_BIREAL50,
    name="binarynet50-kitti-depth-taught",
    arch=_KITTI_BINARYNET50.arch,
    phases=(PhaseSpec(Phase.BINARY, 14, 1e-3, "adam", warmup=0.02, distill=0.7),),
)

# --- half as wide, from an encoder trained with hints (docs/adr/0066) -------------------------------------------------

_HALF_RESNET50 = replace(
    _TAUGHT_RESNET50,
    name="resnet50-half-kitti-depth",
    arch=replace(_KITTI_RESNET50.arch, width=0.5),
    phases=(PhaseSpec(Phase.RELU, 12, 5e-4, "adam", warmup=0.05, weight_decay=1e-4, distill=0.6),),
    source=_KITTI_HALF,
    init="resnet50-half-tiny100",
    hints=0.5,
    depth=replace(_KITTI_TEACHER.depth, teacher_mirrored=False),
)

_HALF_BIREAL50 = replace(
    _TAUGHT_BIREAL50,
    name="bireal50-half-kitti-depth",
    arch=replace(_KITTI_BIREAL50.arch, width=0.5),
    phases=(
        PhaseSpec(Phase.LEAKY_CLIP, 1, 5e-4, "adam", schedule="cosine-head", warmup=0.1, distill=0.6),
        PhaseSpec(Phase.CLIP, 1, 5e-4, "adam", schedule="cosine-head", distill=0.6),
        PhaseSpec(Phase.BINARY_1X1, 2, 1e-3, "adam", schedule="cosine-head", distill=0.6),
        PhaseSpec(Phase.BINARY, 8, 1e-3, "adam", distill=0.6),
    ),
    source=_KITTI_HALF,
    init="resnet50-half-kitti-depth",
    twin="resnet50-kitti-depth",
    hints=0.5,
    depth=_HALF_RESNET50.depth,
)

#: More of the same, at a lower rate: accuracy was still rising when the runs above ended.
_HALF_RESNET50_LONG = replace(
    _HALF_RESNET50,
    name="resnet50-half-kitti-depth-long",
    phases=(PhaseSpec(Phase.RELU, 10, 3e-4, "adam", warmup=0.05, weight_decay=1e-4, distill=0.6),),
    init="resnet50-half-kitti-depth",
)

_HALF_BIREAL50_LONG = replace(
    _HALF_BIREAL50,
    name="bireal50-half-kitti-depth-long",
    phases=(PhaseSpec(Phase.BINARY, 24, 6e-4, "adam", warmup=0.05, distill=0.6),),
    init="bireal50-half-kitti-depth",
)

#: From an encoder that learned on from mosaics of photos (docs/adr/0071).
_AGAIN_RESNET50 = replace(
    _HALF_RESNET50,
    name="resnet50-half-kitti-depth-again",
    init="resnet50-half-mosaics",
)

_AGAIN_BIREAL50 = replace(
    _HALF_BIREAL50,
    name="bireal50-half-kitti-depth-again",
    phases=(*_HALF_BIREAL50.phases[:-1], replace(_HALF_BIREAL50.phases[-1], epochs=14)),
    init="resnet50-half-kitti-depth-again",
)

_HALF_BINARYNET50 = replace(
    _HALF_BIREAL50,
    name="binarynet50-half-kitti-depth",
    arch=replace(_KITTI_BINARYNET50.arch, width=0.5),
    phases=(PhaseSpec(Phase.BINARY, 12, 1e-3, "adam", warmup=0.02, distill=0.6),),
)

_AGAIN_BINARYNET50 = replace(
    _HALF_BINARYNET50, name="binarynet50-half-kitti-depth-again", init="resnet50-half-kitti-depth-again"
)

#: From encoders that saw more mosaics, the 1-bit one as a 1-bit network: only its decoder starts from random weights.
_FURTHER_RESNET50 = replace(_HALF_RESNET50, name="resnet50-half-kitti-depth-further", init="resnet50-half-mosaics-long")

_FURTHER_BIREAL50 = replace(
    _HALF_BIREAL50,
    name="bireal50-half-kitti-depth-further",
    phases=(PhaseSpec(Phase.BINARY, 16, 5e-4, "adam", warmup=0.05, distill=0.6),),
    init="bireal50-half-mosaics",
    stream_rms=0.9,
)

#: From an encoder that saw mosaics with scaled streams. The teacher is the twin: as good on the frames held out as the
#: pretrained network, and there already.
_SCALED_BIREAL50 = replace(
    _FURTHER_BIREAL50,
    name="bireal50-half-kitti-depth-scaled",
    source=f"{_DEPARTURES}; half the channels; both terms of the pair at three sizes, the twin's map and a pretrained "
    "network's feature maps",
    init="bireal50-half-mosaics-again",
    teacher="resnet50-half-kitti-depth-again",
)

# --- the paper's networks ---------------------------------------------------------------------------------------------

#: Sec. 4.5 specifies the steps, the batch size, the learning rate and its drop, the image size, and no augmentation. It
#: does not specify the solver (here that of Sec. 4.1: SGD with plain momentum 0.9, no weight decay) or the initial
#: weights of the real-valued network (here random, unless ``--init`` is given). The loss terms and the smoothness
#: weight 0.01 are from Garg et al., but differences are absolute instead of squared, and the smoothness is edge-aware
#: and on the log disparity.
_PAPER_KITTI = Recipe(
    name="paper-resnet50-kitti-depth",
    arch=_KITTI_RESNET50.arch,
    phases=(PhaseSpec(Phase.RELU, 60, 1e-3, "sgd", "step", milestones=(30,), nesterov=False),),
    batch=10,
    source="paper Sec. 4.5: 60,000 steps of 10 stereo pairs of 160x608, not augmented; terms of Garg et al. 2016, but "
    "absolute instead of squared, and smoothness of the log disparity, less so at edges",
    data="KITTI raw, the pairs of the Eigen split's training list; the last tenth of each drive held out to choose by",
    terms=_KITTI_TERMS,
    epoch_steps=1000,
    bf16=False,
    depth=DepthLoss(
        lidar=0.0, photometric=1.0, smooth=0.01, crop_width=608, mirror=False, max_zoom=1.0, colour=0.0, diverse=()
    ),
)

#: Sec. 4.5 starts the 1-bit network from the real-valued one (here He et al.'s ResNet-50) and describes no other stage.
#: This recipe uses the clip pre-training of Sec. 4.1 and the two steps of Sec. 3.4.4, with 60,000 steps per stage like
#: the ImageNet recipe, but not the final BatchNorm epoch of Sec. 4.1.
_PAPER_KITTI_BIREAL50 = replace(
    _PAPER_KITTI,
    name="paper-bireal50-kitti-depth",
    arch=_KITTI_BIREAL50.arch,
    phases=tuple(
        replace(_PAPER_KITTI.phases[0], phase=phase)
        for phase in (Phase.LEAKY_CLIP, Phase.CLIP, Phase.BINARY_1X1, Phase.BINARY)
    ),
    source=f"{_PAPER_KITTI.source}; for each of leaky clip, clip, first and second step of the two-step scheme",
    init="paper-resnet50-kitti-depth",
)

#: Table 8's other 1-bit network. The paper does not say how it was trained: here for one stage, without clip
#: pre-training or the two steps, which are Bi-Real's own.
_PAPER_KITTI_BINARYNET50 = replace(
    _PAPER_KITTI,
    name="paper-binarynet50-kitti-depth",
    arch=_KITTI_BINARYNET50.arch,
    phases=(replace(_PAPER_KITTI.phases[0], phase=Phase.BINARY),),
    init="paper-resnet50-kitti-depth",
)

KITTI = (
    _KITTI_TEACHER,
    _KITTI_RESNET50,
    _KITTI_BIREAL50,
    _KITTI_BINARYNET50,
    _TAUGHT_RESNET50,
    _TAUGHT_BIREAL50,
    _TAUGHT_BINARYNET50,
    _HALF_RESNET50,
    _HALF_BIREAL50,
    _HALF_RESNET50_LONG,
    _HALF_BIREAL50_LONG,
    _HALF_BINARYNET50,
    _AGAIN_RESNET50,
    _AGAIN_BIREAL50,
    _AGAIN_BINARYNET50,
    _FURTHER_RESNET50,
    _FURTHER_BIREAL50,
    _SCALED_BIREAL50,
    _PAPER_KITTI,
    _PAPER_KITTI_BIREAL50,
    _PAPER_KITTI_BINARYNET50,
)
