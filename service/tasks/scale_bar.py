"""A bar of colours with figures beside it, for below a picture: what a colour stands for can be read off."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

#: Narrowest bar, pixels: three labels fit. A picture that is narrower stands at the left above it.
MIN_WIDTH_PX = 140

_FONT_MIN_PX, _FONT_MAX_PX = 11, 96
#: The letters grow with the picture, which is then looked at in a window of some width.
_WIDTH_PER_FONT, _HEIGHT_PER_FONT = 50, 10

#: First digits of the depths that are shown, in the order in which they are wanted.
_ROUND = ((1.0,), (2.0, 5.0), (3.0, 4.0, 6.0, 8.0), (1.2, 1.5, 2.5, 7.0))
#: The same where a range is too narrow for them.
_TENTHS = (tuple(1 + step / 10 for step in range(90)),)

_INK, _FRAME, _PAPER = (0, 0, 0), (110, 110, 110), (255, 255, 255)


class Tick(NamedTuple):
    """A figure beside the bar: where, from 0 at the left to 1 at the right, and its text."""

    at: float
    label: str


def bar(width: int, height: int, colors: npt.NDArray[np.uint8], ticks: Iterable[Tick]) -> npt.NDArray[np.uint8]:
    """Draws it.

    Args:
        width: Of the picture, pixels.
        height: Likewise: the letters of a panorama are not as large as those of another picture of its width.
        colors: uint8 [N, 3] RGB, from left to right.
        ticks: The more important ones first: those are left out that would touch one before them.

    Returns:
        uint8 [height, max(width, MIN_WIDTH_PX), 3] RGB.
    """
    width = max(width, MIN_WIDTH_PX)
    size = min(max(round(min(width / _WIDTH_PER_FONT, height / _HEIGHT_PER_FONT)), _FONT_MIN_PX), _FONT_MAX_PX)
    font = ImageFont.load_default(size)
    gap, thick = max(3, size // 3), size  # below the picture and around; of the bar
    image = Image.new("RGB", (width, gap + thick + gap + math.ceil(1.35 * size) + gap), _PAPER)
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
        start = min(max(x - wide / 2, 1.0), width - 1 - wide)  # at the ends the label moves inwards
        if any(start < end + size and begin < start + wide + size for begin, end in taken):
            continue
        taken.append((start, start + wide))
        draw.line((round(x), bottom + 1, round(x), bottom + gap), fill=_INK, width=line)
        draw.text((start, bottom + 1 + gap), tick.label, fill=_INK, font=font)
    return np.asarray(image)


def depth_ticks(near_m: float, far_m: float) -> Iterator[Tick]:
    """Round depths of a range, metres, on an axis that is linear in 1 / depth, the roundest first.

    Yields:
        At least two that do not touch on a bar of the least width: where there are no round figures, the ends.
    """
    ticks = [_tick(depth_m, near_m, far_m) for depth_m in _round_depths(near_m, far_m, _ROUND)]
    if max((tick.at for tick in ticks), default=0.0) - min((tick.at for tick in ticks), default=0.0) < 0.5:
        # Two of them may be all that fits, side by side.
        digits = max(0, math.ceil(-math.log10(far_m - near_m) - 1e-6))  # as many as tell the ends apart
        yield Tick(0.0, f"{near_m:.{digits}f} m")
        yield Tick(1.0, f"{far_m:.{digits}f} m")
        ticks += [_tick(depth_m, near_m, far_m) for depth_m in _round_depths(near_m, far_m, _TENTHS)]
    yield from ticks


def _tick(depth_m: float, near_m: float, far_m: float) -> Tick:
    return Tick((1 / near_m - 1 / depth_m) / (1 / near_m - 1 / far_m), f"{depth_m:g} m")


def _round_depths(near_m: float, far_m: float, steps: Iterable[tuple[float, ...]]) -> Iterator[float]:
    """The depths of a range whose first digits are in `steps`, of all decades; those of the first step first."""
    decades = range(math.floor(math.log10(near_m)), math.ceil(math.log10(far_m)) + 1)
    for mantissas in steps:
        for decade in decades:
            for mantissa in mantissas:
                depth_m = float(f"{mantissa * 10.0**decade:.3g}")
                if near_m <= depth_m <= far_m:
                    yield depth_m
