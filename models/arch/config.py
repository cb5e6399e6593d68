"""The one description of a network that training, checkpoints, export and accounting share."""

from __future__ import annotations

from dataclasses import dataclass

STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}
STAGE_CHANNELS = (64, 128, 256, 512)


@dataclass(frozen=True)
class ArchConfig:
    """A network of the paper.

    Attributes:
        depth: 18 or 34 (basic blocks), 50 or 152 (bottlenecks).
        method: a binarisation method's name, or ``none`` for the full-precision ResNet.
        task: ``classify`` (logits) or ``depth`` (disparity network on the encoder).
        num_classes: size of the logits; unused for depth.
        width: multiplies every channel count; 1.0 is the paper's network.
        max_disparity_px: upper end of the disparity range at the network's input width (depth only).
    """

    depth: int = 18
    method: str = "bireal"
    task: str = "classify"
    num_classes: int = 1000
    width: float = 1.0
    max_disparity_px: float = 0.0

    def __post_init__(self) -> None:
        if self.depth not in STAGE_BLOCKS:
            raise ValueError(f"depth {self.depth} is not one of {sorted(STAGE_BLOCKS)}")
        if self.task not in ("classify", "depth"):
            raise ValueError(f"task {self.task!r} is not 'classify' or 'depth'")

    @property
    def binary(self) -> bool:
        """True if the network's 1-bit layers are binarised by a method."""
        return self.method != "none"

    @property
    def bottleneck(self) -> bool:
        """True for the 50- and 152-layer networks."""
        return self.depth >= 50

    @property
    def blocks(self) -> tuple[int, ...]:
        """ResNet blocks (two or three convolutions each) a stage."""
        return STAGE_BLOCKS[self.depth]

    @property
    def stem_channels(self) -> int:
        """Channels after the 7x7 stem."""
        return round(64 * self.width)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the 3x3 convolutions, a stage each."""
        return tuple(round(c * self.width) for c in STAGE_CHANNELS)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels that leave each stage."""
        expansion = 4 if self.bottleneck else 1
        return tuple(c * expansion for c in self.stage_channels)
