"""File formats of depth maps: KITTI's 16-bit PNG, NumPy's .npy, a colour picture, or a point cloud.

In a map at the picture's original size, pixels outside the valid part have no depth. They are 0 in the 16-bit PNG (as
in KITTI's files), NaN in .npy and transparent in colour pictures.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import BadParameterError
from service.tasks.depth import BAND_VALUES, DepthResult
from service.tasks.depth_colors import color_range, draw_colors
from service.tasks.point_cloud import encode_ply

DepthFormat = Literal["png16", "npy", "color", "ply"]

#: KITTI's depth files: uint16 = metres * 256, 0 = no depth (its development kit's readme).
KITTI_SCALE = 256.0

#: Maximum number of values of a map in JSON, where text takes ten times the memory of the numbers.
MAX_JSON_VALUES = 1_000_000


@dataclass(frozen=True, slots=True)
class EncodedDepth:
    """An encoded depth map.

    Attributes:
        chunks: The file's bytes, in order; a large array is encoded while it is sent, so it is never fully in memory.
        length: Size of the file in bytes.
        media_type: Content type of the file.
        suffix: Usual file name suffix, such as `.png`.
        near_m: Depth of the brightest colour, metres; None for formats without colours.
        far_m: Depth of the darkest colour, metres; None for formats without colours.
    """

    chunks: Iterable[bytes]
    length: int
    media_type: str
    suffix: str
    near_m: float | None = None
    far_m: float | None = None

    @property
    def body(self) -> bytes:
        """All bytes at once."""
        return b"".join(self.chunks)


@dataclass(frozen=True, slots=True)
class ColorOptions:
    """Options of a colour picture.

    Attributes:
        near_m: Depth of the brightest colour, metres; None for the map's 2nd percentile.
        far_m: Depth of the darkest colour, metres; None for the map's 98th percentile.
        scale_bar: Whether to add a scale bar below the map.
    """

    near_m: float | None = None
    far_m: float | None = None
    scale_bar: bool = True


def encode_depth(
    result: DepthResult,
    format: DepthFormat,  # noqa: A002  the name that users know from the query
    colors: ColorOptions | None = None,
) -> EncodedDepth:
    """Encodes a map at the requested size.

    Args:
        result: The map.
        format: `png16`: uint16 = metres * 256 as in KITTI, at most 255.996 m; `npy`: float32 metres; `color`: 8-bit RGB
            or RGBA, bright is near and dark is far; `ply`: one point per pixel of the network.
        colors: Options for `color`; None for the defaults.

    Raises:
        BadParameterError: The format does not exist, the colour range is empty, the map is too narrow or too low for a
            scale bar, or a point cloud was requested at the picture's original size.
    """
    if format == "png16":
        return _whole(encode_png(_kitti_map(result)), "image/png", ".png")
    if format == "npy":
        return _npy(result)
    if format == "color":
        colors = colors or ColorOptions()
        near_m, far_m = color_range(result.depth_m, colors.near_m, colors.far_m)
        drawn = encode_png(draw_colors(result, near_m, far_m, with_bar=colors.scale_bar))
        return EncodedDepth((drawn,), len(drawn), "image/png", ".png", near_m, far_m)
    if format == "ply":
        return _whole(encode_ply(result), "application/x-ply", ".ply")
    raise BadParameterError(
        "format", f"There is no format {format!r}.", remedy=f"Use one of: json, {', '.join(get_args(DepthFormat))}."
    )


def to_kitti(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Converts metres to KITTI's uint16, [H, W]; at least 1, because 0 means that there is no depth."""
    scaled: npt.NDArray[np.float32] = np.clip(np.rint(depth_m * KITTI_SCALE), 1, 65535)
    return scaled.astype(np.uint16)


def encode_png(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    """Encodes pixels [H, W], [H, W, 3] or [H, W, 4] as a PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=3)  # half the time of level 6
    return stream.getvalue()


def json_values(result: DepthResult) -> str:
    """Encodes the map as JSON: an array of rows, in metres rounded to millimetres, null where there is no depth.

    Raises:
        BadParameterError: The map is too large.
    """
    height, width = result.map_size
    if height * width > MAX_JSON_VALUES:
        raise BadParameterError(
            "values",
            f"The map has {width} x {height} values; JSON is limited to {MAX_JSON_VALUES:,}.",
            remedy="Use format=npy or png16, or leave out size=original.",
        )
    valid = result.valid
    before, after = "null," * valid.left, ",null" * (width - valid.left - valid.width)
    nothing = f"[{'null,' * (width - 1)}null]"
    rows = [nothing] * height
    for top, depth_m in result.bands():
        for row, values in enumerate(np.round(depth_m.astype(np.float64), 3).tolist(), valid.top + top):
            rows[row] = f"[{before}{','.join(map(repr, values))}{after}]"
    return f"[{','.join(rows)}]"


def _kitti_map(result: DepthResult) -> npt.NDArray[np.uint16]:
    valid = result.valid
    values = np.zeros(result.map_size, np.uint16)
    seen = values[valid.top : valid.top + valid.height, valid.left : valid.left + valid.width]
    for top, depth_m in result.bands():
        seen[top : top + len(depth_m)] = to_kitti(depth_m)
    return values


def _npy(result: DepthResult) -> EncodedDepth:
    stream = io.BytesIO()
    height, width = result.map_size
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (height, width)})
    header = stream.getvalue()
    return EncodedDepth(_npy_chunks(header, result), len(header) + 4 * height * width, "application/x-npy", ".npy")


def _npy_chunks(header: bytes, result: DepthResult) -> Iterator[bytes]:
    """Yields the header, what is above the valid part, its bands, and what is below.

    Chunks have about `BAND_VALUES` values whatever the shape of the map: neither one for each row of one pixel, nor
    rows of millions of pixels at once.
    """
    (height, width), valid = result.map_size, result.valid
    right = width - valid.left - valid.width
    yield header
    yield from _no_depth(valid.top * width)
    for _, depth_m in result.bands():
        if width > BAND_VALUES:
            for row in depth_m:
                yield from _no_depth(valid.left)
                yield row.astype("<f4", copy=False).tobytes()
                yield from _no_depth(right)
            continue
        step = BAND_VALUES // width
        for top in range(0, len(depth_m), step):
            part = depth_m[top : top + step]
            rows = np.full((len(part), width), np.nan, dtype="<f4")
            rows[:, valid.left : valid.left + valid.width] = part
            yield rows.tobytes()
    yield from _no_depth((height - valid.top - valid.height) * width)


def _no_depth(count: int) -> Iterator[bytes]:
    """Yields the bytes of `count` values NaN, a band at a time."""
    nothing = np.full(min(count, BAND_VALUES), np.nan, dtype="<f4").tobytes()
    for begin in range(0, count, BAND_VALUES):
        yield nothing[: 4 * (count - begin)]


def _whole(body: bytes, media_type: str, suffix: str) -> EncodedDepth:
    return EncodedDepth((body,), len(body), media_type, suffix)
