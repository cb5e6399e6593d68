"""The shapes of loadtest/peers/shapes.yaml and their amount of work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

FILE = Path(__file__).with_name("shapes.yaml")

Positive = Annotated[int, Field(gt=0)]


class Shape(BaseModel):
    """Geometry of one block; the fields are described at the top of shapes.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[^/\s*?\[\]]+$")]
    channels: tuple[Positive, Positive]
    size: tuple[Positive, Positive]
    kernel: Literal[1, 3]
    stride: Literal[1, 2]

    @property
    def out_size(self) -> tuple[int, int]:
        """[rows, columns] of the output."""
        height, width = self.size
        return (height - 1) // self.stride + 1, (width - 1) // self.stride + 1

    @property
    def keeps_shape(self) -> bool:
        """Whether the output has the input's shape, so that blocks can be chained."""
        return self.channels[0] == self.channels[1] and self.stride == 1

    def macs(self, batch: int = 1) -> int:
        """Multiply-accumulates of one block, counting only taps inside the image.

        Taps outside contribute nothing and need not be computed; at 7 x 7 they are 18 % of all taps.
        """
        rows, columns = (
            sum(_taps_inside(position, self.kernel, self.stride, size) for position in range(out))
            for out, size in zip(self.out_size, self.size, strict=True)
        )
        return batch * rows * columns * self.channels[0] * self.channels[1]


class Shapes(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Positive
    shapes: tuple[Shape, ...]


def _taps_inside(position: int, kernel: int, stride: int, size: int) -> int:
    """Taps of one output position that lie inside, along one axis."""
    first = position * stride - kernel // 2
    return min(first + kernel, size) - max(first, 0)


def load_shapes(path: Path = FILE) -> Shapes:
    """Reads a file of shapes.

    Raises:
        pydantic.ValidationError: the file is invalid; the message names the field.
    """
    return Shapes.model_validate(yaml.safe_load(path.read_text()))
