"""A colour bar with labels, which goes below a picture to show the meaning of its colours."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from service.errors import BadParameterError

#: Minimum width of the bar, pixels, which fits three labels. A narrower picture is left-aligned above it.
MIN_WIDTH_PX = 140

#: Most pixels that a bar may add to a small picture, by its own and by padding; to a larger one, as many as that has.
#: Padding a picture of 1 x 50,000,000 pixels to the width of a bar would take 28 GB.
MAX_ADDED_PX = 1_000_000

_FONT_MIN_PX, _FONT_MAX_PX = 11, 96
#: Picture size per font size: large pictures are shrunk for display, so their labels must be larger.
_WIDTH_PER_FONT, _HEIGHT_PER_FONT = 50, 10

#: Leading digits of the depths to label, by decreasing preference.
_ROUND = ((1.0,), (2.0, 5.0), (3.0, 4.0, 6.0, 8.0), (1.2, 1.5, 2.5, 7.0))
#: The same for a range that is too narrow for `_ROUND`.
_TENTHS = (tuple(1 + step / 10 for step in range(90)),)

_INK, _FRAME, _PAPER = (0, 0, 0), (110, 110, 110), (255, 255, 255)


class Tick(NamedTuple):
    """A label of the bar: its position, from 0 at the left to 1 at the right, and its text."""

    at: float
    label: str


def bar(width: int, height: int, colors: npt.NDArray[np.uint8], ticks: Iterable[Tick]) -> npt.NDArray[np.uint8]:
    """Draws a bar.

    Args:
        width: Width of the picture, pixels.
        height: Height of the picture, pixels; it limits the font size, for example for a panorama.
        colors: uint8 [N, 3] RGB, from left to right.
        ticks: Labels, the most important first; a label that would touch an earlier one is left out.

    Returns:
        uint8 [height, max(width, MIN_WIDTH_PX), 3] RGB.

    Raises:
        BadParameterError: The picture is so narrow or low that it would grow beyond its own size and `MAX_ADDED_PX`.
    """
    picture, own = f"{width} x {height}", width * height
    width = max(width, MIN_WIDTH_PX)
    size = min(max(round(min(width / _WIDTH_PER_FONT, height / _HEIGHT_PER_FONT)), _FONT_MIN_PX), _FONT_MAX_PX)
    gap, thick = max(3, size // 3), size  # margin around the bar, and its height
    tall = gap + thick + gap + math.ceil(1.35 * size) + gap
    added, most = width * (height + tall) - own, max(own, MAX_ADDED_PX)
    if added > most:
        raise BadParameterError(
            "scale_bar",
            f"A scale bar would enlarge the {picture} pixels of the map by {added:,}; the limit is {most:,}.",
            remedy="Send scale_bar=false, or leave out size=original.",
            local_remedy="Leave out --size original, or write .png16.png or .npy, which have no scale bar.",
        )
    font = ImageFont.load_default(size)
    image = Image.new("RGB", (width, tall), _PAPER)
    draw = ImageDraw.Draw(image)
    left, right, bottom = gap, width - 1 - gap, gap + thick - 1
    at = np.rint(np.linspace(0, len(colors) - 1, right - left + 1)).astype(np.intp)
    image.paste(Image.fromarray(np.broadcast_to(colors[at], (thick, len(at), 3)).copy()), (left, gap))
    line = max(1, size // 12)
    draw.rectangle((left - 1, gap - 1, right + 1, bottom + 1), outline=_FRAME)
    taken: list[tuple[float, float]] = []
    for tick in ticks:
        x = left + tick.at * (right - left)
        wide = draw.textlength(tick.label, font=font)
        start = min(max(x - wide / 2, 1.0), width - 1 - wide)  # labels at the ends are moved inwards
        if any(start < end + size and begin < start + wide + size for begin, end in taken):
            continue
        taken.append((start, start + wide))
        draw.line((round(x), bottom + 1, round(x), bottom + gap), fill=_INK, width=line)
        draw.text((start, bottom + 1 + gap), tick.label, fill=_INK, font=font)
    return np.asarray(image)


def depth_ticks(near_m: float, far_m: float) -> Iterator[Tick]:
    """Yields labels for round depths in a range, metres, on an axis that is linear in 1 / depth, roundest first.

    Yields:
        Labels, of which at least two do not touch on the narrowest bar: the ends of the range if no round depths do.
    """
    ticks = [_tick(depth_m, near_m, far_m) for depth_m in _round_depths(near_m, far_m, _ROUND)]
    if max((tick.at for tick in ticks), default=0.0) - min((tick.at for tick in ticks), default=0.0) < 0.5:
        # The round depths are too close together, so label the ends first.
        digits = max(0, math.ceil(-math.log10(far_m - near_m) - 1e-6))  # enough to distinguish the ends
        yield Tick(0.0, f"{near_m:.{digits}f} m")
        yield Tick(1.0, f"{far_m:.{digits}f} m")
        ticks += [_tick(depth_m, near_m, far_m) for depth_m in _round_depths(near_m, far_m, _TENTHS)]
    yield from ticks


def _tick(depth_m: float, near_m: float, far_m: float) -> Tick:
    return Tick((1 / near_m - 1 / depth_m) / (1 / near_m - 1 / far_m), f"{depth_m:g} m")


def _round_depths(near_m: float, far_m: float, steps: Iterable[tuple[float, ...]]) -> Iterator[float]:
    """Yields the depths in a range whose leading digits are in `steps`, in all decades, step by step."""
    decades = range(math.floor(math.log10(near_m)), math.ceil(math.log10(far_m)) + 1)
    for mantissas in steps:
        for decade in decades:
            for mantissa in mantissas:
                depth_m = float(f"{mantissa * 10.0**decade:.3g}")
                if near_m <= depth_m <= far_m:
                    yield depth_m
