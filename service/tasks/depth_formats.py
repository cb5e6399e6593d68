"""A depth map as a file: 16-bit PNG in KITTI's convention, NumPy's .npy, or a picture in colours."""

import io
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import BadParameterError

DepthFormat = Literal["png16", "npy", "color"]

#: KITTI's depth files: uint16 = metres * 256, 0 = no depth (its development kit's readme).
KITTI_SCALE = 256.0

#: Percentiles of a map that bound its colours when the client names no range.
_COLOR_PERCENTILES = (2.0, 98.0)

# The colour map viridis (S. van der Walt and N. Smith, 2015; CC0), perceptually uniform and readable by colour-blind
# people: 17 of its 256 colours, evenly spaced. Between them the channels are linear to within 6 of 255.
_VIRIDIS = (
    "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26818e 21908c "
    "1f9f88 28ae80 3ebc74 5dc963 82d34c abdc32 d5e21a fde725"
)


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
    """Writes a map as a file.

    Args:
        depth_m: float32 [H, W], metres, finite and above 0.
        format: `png16`: uint16 = metres * 256, at most 255.996 m, as KITTI's; `npy`: the float32 array as it is;
            `color`: an 8-bit RGB picture, bright near and dark far.
        near_m: For `color`: depth of the brightest colour and nearer; by default the map's 2nd percentile.
        far_m: For `color`: depth of the darkest colour and farther; by default the map's 98th percentile.

    Raises:
        BadParameterError: The format does not exist, or the range is empty.
    """
    if format == "png16":
        return EncodedDepth(encode_png(to_kitti(depth_m)), "image/png", ".png")
    if format == "npy":
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(depth_m, dtype="<f4"), allow_pickle=False)
        return EncodedDepth(stream.getvalue(), "application/x-npy", ".npy")
    if format == "color":
        near_m, far_m = _color_range(depth_m, near_m, far_m)
        return EncodedDepth(encode_png(colorize(depth_m, near_m, far_m)), "image/png", ".png", near_m, far_m)
    raise BadParameterError(
        "format", f"There is no format {format!r}.", remedy=f"Ask for one of: json, {', '.join(get_args(DepthFormat))}."
    )


def to_kitti(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Metres to KITTI's uint16, [H, W]; at least 1, because 0 says that there is no depth."""
    scaled: npt.NDArray[np.float32] = np.clip(np.rint(depth_m * KITTI_SCALE), 1, 65535)
    return scaled.astype(np.uint16)


def colorize(depth_m: npt.NDArray[np.float32], near_m: float, far_m: float) -> npt.NDArray[np.uint8]:
    """Colours a map on an axis that is linear in 1 / depth, as disparity is: most of the colours go to what is near.

    Args:
        depth_m: float32 [H, W], metres.
        near_m: Depth of the brightest colour, metres, and nearer.
        far_m: Depth of the darkest colour, metres, and farther.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    nearness = (1.0 / depth_m - 1.0 / far_m) / (1.0 / near_m - 1.0 / far_m)
    index = np.rint(np.clip(nearness, 0.0, 1.0) * 255).astype(np.uint8)
    colored: npt.NDArray[np.uint8] = _PALETTE[index]
    return colored


def _palette() -> npt.NDArray[np.uint8]:
    """The 256 colours, uint8 [256, 3], dark to bright."""
    anchors = np.array([list(bytes.fromhex(color)) for color in _VIRIDIS.split()], dtype=np.float64)
    at = np.linspace(0, 255, len(anchors))
    channels = [np.interp(np.arange(256), at, anchors[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


_PALETTE = _palette()


def _color_range(depth_m: npt.NDArray[np.float32], near_m: float | None, far_m: float | None) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(depth_m, _COLOR_PERCENTILES))
    near = low if near_m is None else near_m
    far = high if far_m is None else far_m
    for name, value in (("near", near), ("far", far)):
        if not (math.isfinite(value) and value > 0):
            raise BadParameterError(
                name, f"{name} is {value}; it must be above 0 m.", remedy="Leave it out for the map's own range."
            )
    if near >= far:
        if near_m is not None or far_m is not None:
            raise BadParameterError(
                "near" if near_m is not None else "far",
                f"The colours would run from {near:g} m to {far:g} m, which is no range.",
                remedy="Send near below far, or leave both out for the map's own range.",
            )
        far = near * 1.001  # a map of one single depth: any range will do
    return near, far


def encode_png(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    """Pixels [H, W] or [H, W, 3] as a PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=3)  # half the time of level 6
    return stream.getvalue()
