"""The description of a network, shared by training, checkpoints, export and accounting."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}
STAGE_CHANNELS = (64, 128, 256, 512)
STRUCTURES = ("bireal", "res", "plain")
ACTIVATIONS = ("", "relu", "clip")
MAX_STEM_KERNEL = 7  # limit of the serving graph's Stem operator

#: Keyword arguments of `ArchConfig` for images of about 32 x 32: no downsampling before the first stage.
SMALL_STEM = {"stem_kernel": 3, "stem_stride": 1, "stem_pool": False}


@dataclass(frozen=True)
class ArchConfig:
    """A network of the paper.

    Attributes:
        depth: 18 or 34 (basic blocks), 50 or 152 (bottlenecks).
        method: name of the binarisation method, or ``none`` for a full-precision network.
        task: ``classify`` (logits) or ``depth`` (a disparity decoder on the encoder).
        num_classes: number of logits; unused for depth.
        width: width multiplier on every channel count; 1.0 is the paper's network.
        max_disparity_px: upper end of the disparity range, in pixels of the network's input width (depth only).
        structure: placement of the shortcuts: ``bireal`` (around every 1-bit convolution), ``res`` (around the two or
            three convolutions of a ResNet block) or ``plain`` (none); paper Fig. 10 (b), (c), (d).
        activation: only for method ``none``. Empty: the standard ResNet, whatever ``structure`` says. ``relu`` or
            ``clip``: the real-valued counterpart of ``structure``, with this activation instead of the sign.
        stem_kernel: kernel size of the first convolution, odd, at most 7.
        stem_stride: stride of the first convolution, 1 or 2.
        stem_pool: whether a 3x3 max-pool of stride 2 follows the first convolution.
        first_1x1_real: only for ``bireal`` bottlenecks. True: the first 1x1 convolution of the network is real-valued
            and reads a leaky clip, as in the official code. False: all are binary, as in the paper's text.
        options: options of the binarisation method (the fields of its class) that differ from the defaults.
    """

    depth: int = 18
    method: str = "bireal"
    task: str = "classify"
    num_classes: int = 1000
    width: float = 1.0
    max_disparity_px: float = 0.0
    structure: str = "bireal"
    activation: str = ""
    stem_kernel: int = 7
    stem_stride: int = 2
    stem_pool: bool = True
    first_1x1_real: bool = True
    options: dict[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.depth not in STAGE_BLOCKS:
            raise ValueError(f"depth {self.depth} is not one of {sorted(STAGE_BLOCKS)}")
        if self.task not in ("classify", "depth"):
            raise ValueError(f"task {self.task!r} is not 'classify' or 'depth'")
        if self.task == "classify" and self.num_classes < 1:
            raise ValueError(f"{self.num_classes} classes: a classifier needs at least 1")
        if not (math.isfinite(self.width) and self.stem_channels >= 1):
            raise ValueError(f"width {self.width:g}: the stem's 64 channels times this must be at least 1")
        if self.structure not in STRUCTURES:
            raise ValueError(f"structure {self.structure!r} is not one of {', '.join(STRUCTURES)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is not 'relu', 'clip' or empty")
        if self.activation and self.binary:
            raise ValueError(f"activation {self.activation!r} needs method 'none': {self.method} uses the sign")
        if self.options and not self.binary:
            raise ValueError("options belong to a binarisation method: method 'none' has none")
        if self.stem_kernel % 2 == 0 or not 1 <= self.stem_kernel <= MAX_STEM_KERNEL:
            raise ValueError(f"stem_kernel {self.stem_kernel} is not an odd number up to {MAX_STEM_KERNEL}")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"stem_stride {self.stem_stride} is not 1 or 2")
        if self.task == "depth" and not (self.stem_stride == 2 and self.stem_pool):
            raise ValueError("a depth network needs a stem with stride 2 and max-pool")

    @property
    def binary(self) -> bool:
        """True if a method binarises the network."""
        return self.method != "none"

    @property
    def standard_resnet(self) -> bool:
        """True for He et al.'s network with ReLU after the addition, the variant `full`."""
        return not self.binary and not self.activation

    @property
    def bottleneck(self) -> bool:
        """True for the 50- and 152-layer networks."""
        return self.depth >= 50

    @property
    def blocks(self) -> tuple[int, ...]:
        """ResNet blocks (two or three convolutions each) per stage."""
        return STAGE_BLOCKS[self.depth]

    @property
    def stem_channels(self) -> int:
        """Channels after the stem."""
        return round(64 * self.width)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the 3x3 convolutions, per stage."""
        return tuple(round(c * self.width) for c in STAGE_CHANNELS)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Output channels of each stage."""
        expansion = 4 if self.bottleneck else 1
        return tuple(c * expansion for c in self.stage_channels)
