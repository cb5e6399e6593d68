"""Colour pictures of depth maps, with a scale bar in metres."""

import math

import numpy as np
import numpy.typing as npt

from service.errors import BadParameterError
from service.tasks import scale_bar
from service.tasks.depth import DepthResult

#: Percentiles of a map that limit the colour range if the client sets none.
_COLOR_PERCENTILES = (2.0, 98.0)

# Every fifth colour of viridis (S. van der Walt and N. Smith, 2015; CC0), which is perceptually uniform and readable by
# colour-blind people. Linear interpolation of the other colours is accurate to 1 of 255.
_VIRIDIS = (
    "440154 46085c 471063 481769 481d6f 482475 472a7a 46307e 453781 433d84 414287 3f4889 3d4e8a "
    "3a538b 38598c 355e8d 33638d 31688e 2e6d8e 2c718e 2a768e 297b8e 27808e 25848e 23898e 218e8d "
    "20928c 1f978b 1e9c89 1fa188 21a585 24aa83 28ae80 2eb37c 35b779 3dbc74 46c06f 50c46a 5ac864 "
    "65cb5e 70cf57 7cd250 89d548 95d840 a2da37 b0dd2f bddf26 cae11f d8e219 e5e419 f1e51d fde725"
)


def draw_colors(result: DepthResult, near_m: float, far_m: float, *, with_bar: bool) -> npt.NDArray[np.uint8]:
    """Draws a map at the requested size.

    Args:
        result: The map.
        near_m: Depth of the brightest colour, metres; nearer pixels have the same colour.
        far_m: Depth of the darkest colour, metres; farther pixels have the same colour.
        with_bar: Whether to add a scale bar below the map, whose pixels are not moved.

    Returns:
        uint8 [H, W, 3] RGB, or [H, W, 4] RGBA if a part of the map has no depth and is transparent.

    Raises:
        BadParameterError: The map is too narrow or too low for a scale bar; see `scale_bar.bar`.
    """
    (height, width), valid = result.map_size, result.valid
    if with_bar:
        ticks = scale_bar.depth_ticks(near_m, far_m)
        bar = scale_bar.bar(width, height, _PALETTE[::-1], ticks)
    else:
        bar = np.empty((0, width, 3), np.uint8)
    whole = (valid.width, valid.height) == (width, height)
    shape = (height + bar.shape[0], bar.shape[1], 3 if whole else 4)
    picture = np.full(shape, 255, np.uint8)
    if not whole:
        picture[:height, :width, 3] = 0
        picture[valid.top : valid.top + valid.height, valid.left : valid.left + valid.width, 3] = 255
    seen = picture[valid.top : valid.top + valid.height, valid.left : valid.left + valid.width, :3]
    for top, depth_m in result.bands():
        seen[top : top + len(depth_m)] = colorize(depth_m, near_m, far_m)
    picture[height:, :, :3] = bar
    return picture


def colorize(depth_m: npt.NDArray[np.float32], near_m: float, far_m: float) -> npt.NDArray[np.uint8]:
    """Colours a map on a scale that is linear in 1 / depth, like disparity, so that near depths get most colours.

    Args:
        depth_m: float32 [H, W], metres.
        near_m: Depth of the brightest colour, metres; nearer pixels have the same colour.
        far_m: Depth of the darkest colour, metres; farther pixels have the same colour.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    nearness = (1.0 / depth_m - 1.0 / far_m) / (1.0 / near_m - 1.0 / far_m)
    index = np.rint(np.clip(nearness, 0.0, 1.0) * 255).astype(np.uint8)
    colored: npt.NDArray[np.uint8] = _PALETTE[index]
    return colored


def color_range(depth_m: npt.NDArray[np.float32], near_m: float | None, far_m: float | None) -> tuple[float, float]:
    """Returns the range of the colours, metres: the client's values, or percentiles of the map.

    Raises:
        BadParameterError: The range is empty, or a value is not above 0.
    """
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
                f"The colours would range from {near:g} m to {far:g} m, but near must be below far.",
                remedy="Send near below far, or leave both out for the map's own range.",
            )
        far = near * 1.001  # the whole map has the same depth: any range will do
    return near, far


def _palette() -> npt.NDArray[np.uint8]:
    """Returns the 256 colours, uint8 [256, 3], from dark to bright."""
    anchors = np.array([list(bytes.fromhex(color)) for color in _VIRIDIS.split()], dtype=np.float64)
    at = np.linspace(0, 255, len(anchors))
    channels = [np.interp(np.arange(256), at, anchors[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


_PALETTE = _palette()
