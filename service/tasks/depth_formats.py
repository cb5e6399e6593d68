"""A depth map as a file: 16-bit PNG in KITTI's convention, NumPy's .npy, or a picture in colours."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

DepthFormat = Literal["png16", "npy", "color"]


@dataclass(frozen=True, slots=True)
class EncodedDepth:
    """A file.

    Attributes:
        body: Its bytes.
        media_type: Its content type.
        suffix: Its usual file name suffix, such as `.png`.
        near_m: Depth of the brightest colour, metres; None unless coloured.
        far_m: Depth of the darkest colour, metres; None unless coloured.
    """

    body: bytes
    media_type: str
    suffix: str
    near_m: float | None = None
    far_m: float | None = None


def encode_depth(
    depth_m: npt.NDArray[np.float32],
    format: DepthFormat,  # noqa: A002  the name that users know from the query
    *,
    near_m: float | None = None,
    far_m: float | None = None,
) -> EncodedDepth:
    """Writes a map, float32 [H, W] metres, as a file; `near_m` and `far_m` bound the colours."""
    raise NotImplementedError
