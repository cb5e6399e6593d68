"""Point clouds of depth maps in camera coordinates, as PLY."""

import numpy as np
import numpy.typing as npt

from service.errors import BadParameterError
from service.tasks.depth import DepthResult

#: Layout of a vertex in the file, and the header's names of its types.
VERTEX = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")])
_NAMES = {"<f4": "float", "|u1": "uchar"}


def encode_ply(result: DepthResult) -> bytes:
    """Encodes the cloud as binary PLY: x right, y down, z forward, metres, with the picture's colours.

    There is one point per pixel of the network. Interpolated depths would add false points, for example between a car
    and the wall behind it. Pixels are assumed to be square, and the optical axis to pass through the centre of the
    uploaded picture.

    Raises:
        BadParameterError: The requested size is the picture's original size.
    """
    if result.size == "original":
        raise interpolated_cloud()
    vertices = points(result)
    geometry = result.geometry
    header = "\n".join(
        (
            "ply",
            "format binary_little_endian 1.0",
            "comment metres; x right, y down, z forward, from the camera",
            f"comment picture {geometry.picture_width} x {geometry.picture_height} pixels",
            f"comment fx_px {result.focal.fx_px:.6g} {result.focal.source}",
            f"comment cx_px {geometry.picture_width / 2:g}",
            f"comment cy_px {geometry.picture_height / 2:g}",
            f"element vertex {len(vertices)}",
            *(f"property {_NAMES[VERTEX[name].str]} {name}" for name in VERTEX.names or ()),
            "end_header\n",
        )
    )
    return header.encode("ascii") + vertices.tobytes()


def interpolated_cloud() -> BadParameterError:
    """Returns the error for a point cloud at the picture's original size."""
    return BadParameterError(
        "size",
        "A point cloud has one point for each pixel of the network; size=original would only interpolate.",
        remedy="Leave size out, or request format=npy&size=original and compute the points from it.",
        local_remedy="Leave out --size original, or write an .npy and compute the points from it.",
    )


def points(result: DepthResult) -> npt.NDArray[np.void]:
    """Returns the points of the network's map, row by row: `VERTEX` [H * W].

    A point with depth z at pixel (u, v) has x = z (u - cx) / fx and y = z (v - cy) / fy.
    """
    geometry, depth_m = result.geometry, result.depth_m
    height, width = depth_m.shape
    # The centre of each of the network's pixels, in pixels of the uploaded picture.
    u = geometry.left + (np.arange(width) + 0.5) / geometry.scale_x  # [W]
    v = geometry.top + (np.arange(height) + 0.5) / geometry.scale_y  # [H]
    vertices = np.empty((height, width), dtype=VERTEX)
    vertices["x"] = depth_m * ((u - geometry.picture_width / 2) / result.focal.fx_px)[None, :]
    vertices["y"] = depth_m * ((v - geometry.picture_height / 2) / result.focal.fx_px)[:, None]
    vertices["z"] = depth_m
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = result.pixels[..., channel]
    return vertices.ravel()
