"""Where two depth maps of one picture differ, as a picture."""

import numpy as np
import numpy.typing as npt

from service.tasks.depth_formats import encode_png

#: Ratio of depths from which on a colour no longer changes.
FULL_RATIO = 2.0

# Blue and red through white: told apart by colour-blind people, too.
_NEARER, _EQUAL, _FARTHER = (33, 102, 172), (247, 247, 247), (178, 24, 43)


def error_map(a_m: npt.NDArray[np.float32], b_m: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Colours the ratio of two maps on a logarithmic axis, so that half and double are equally strong.

    Args:
        a_m: float32 [H, W], metres, above 0.
        b_m: Likewise, of the same picture.

    Returns:
        uint8 [H, W, 3] RGB: white where they are equal, blue where `a` is nearer, red where it is farther; fully so
        from a factor of 2 on.
    """
    octaves = np.clip(np.log2(a_m.astype(np.float64) / b_m) / np.log2(FULL_RATIO), -1, 1)
    channels = [
        np.interp(octaves, (-1, 0, 1), values) for values in zip(_NEARER, _EQUAL, _FARTHER, strict=True)
    ]  # 3 x [H, W]
    return np.asarray(np.rint(np.stack(channels, axis=-1)), dtype=np.uint8)


def encode_error_map(a_m: npt.NDArray[np.float32], b_m: npt.NDArray[np.float32]) -> bytes:
    """`error_map` as a PNG."""
    return encode_png(error_map(a_m, b_m))
