"""A ray-cast street scene with known depth. It is not a photograph, so its pictures can be published freely.

It uses KITTI's camera (1242 x 375 pixels, focal length 721.5 px, 1.65 m above the road) and boxes for houses, cars and
trees. Predictions on this drawing show that depth follows the objects; they do not show a network's accuracy on photos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation import KITTI_FX_PX

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 1242, 375
FX_PX = KITTI_FX_PX[WIDTH]
CX_PX, CY_PX = 609.5593, 172.854
CAMERA_M = 1.65
FARTHEST_M = 120.0
SKY = np.array([0.66, 0.78, 0.92])

# The laser scanner of KITTI's car: 64 beams between 2 degrees up and 24.8 degrees down, one reading every 0.17 degrees.
BEAMS_DEG = np.linspace(2.0, -24.8, 64)
AZIMUTH_DEG = np.arange(-45.0, 45.0, 0.17)


@dataclass(frozen=True)
class Block:
    """A box in metres: x to the right, y down from the camera, z ahead.

    Attributes:
        low: smallest x, y, z.
        high: largest x, y, z.
        colour: RGB 0..1.
        windows: whether its walls have rows of windows.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    colour: tuple[float, float, float]
    windows: bool = False


def street() -> list[Block]:
    """Two rows of houses, parked cars and trees."""
    rng = np.random.default_rng(45)
    blocks = []
    for side in (-1, 1):
        z = 4.0
        while z < FARTHEST_M:
            length, set_back, tall = rng.uniform(8, 15), rng.uniform(8, 10.5), rng.uniform(5.5, 10)
            end = min(z + length, FARTHEST_M)
            left, right = sorted((side * set_back, side * (set_back + 9)))
            red, green, blue = 0.45 + 0.4 * rng.random(3) * np.array([1, 0.9, 0.78])
            walls = (float(red), float(green), float(blue))
            blocks.append(Block((left, CAMERA_M - tall, z), (right, CAMERA_M, end), walls, windows=True))
            z += length + rng.uniform(0.5, 5)
    cars = ((-4.6, 8, 0.6, 0.1, 0.1), (-4.7, 16, 0.8, 0.8, 0.8), (-4.6, 33, 0.2, 0.2, 0.4), (2.9, 12, 0.2, 0.3, 0.5))
    cars_further_on = ((2.8, 24, 0.1, 0.1, 0.1), (0.6, 46, 0.7, 0.7, 0.7), (2.9, 52, 0.5, 0.1, 0.1))
    for x, z, *paint in (*cars, *cars_further_on):
        colour = (paint[0], paint[1], paint[2])
        blocks.append(Block((x, CAMERA_M - 0.95, z), (x + 1.75, CAMERA_M - 0.25, z + 4.2), colour))
        blocks.append(Block((x + 0.15, CAMERA_M - 1.5, z + 0.5), (x + 1.6, CAMERA_M - 0.95, z + 3), (0.12, 0.14, 0.17)))
        blocks.append(Block((x + 0.1, CAMERA_M - 0.6, z + 0.02), (x + 1.65, CAMERA_M, z + 4.1), (0.05, 0.05, 0.05)))
    for side, z in ((-1, 21), (1, 18), (1, 36), (-1, 44), (-1, 70), (1, 64)):
        x = side * 6.6
        blocks.append(Block((x - 0.15, CAMERA_M - 3.5, z), (x + 0.15, CAMERA_M, z + 0.3), (0.3, 0.22, 0.16)))
        for step in range(4):
            width = (1.5, 1.9, 1.5, 0.9)[step]
            top = CAMERA_M - 4.2 - step
            low, high = (x - width, top, z + 0.15 - width), (x + width, top + 1.05, z + 0.15 + width)
            blocks.append(Block(low, high, (0.14, 0.3 + 0.03 * step, 0.1)))
    return blocks


def cast(xs: Floats, ys: Floats, blocks: list[Block]) -> tuple[Floats, Floats]:
    """Cast a grid of rays (x, y, 1) from the camera.

    Args:
        xs: [W], horizontal tangents, increasing to the right.
        ys: [H], vertical tangents, increasing downwards.
        blocks: the objects on the road (a plane `CAMERA_M` below the camera), all ahead of the camera.

    Returns:
        Depth along the camera axis in metres [H,W], infinite for the sky, and RGB 0..1 [H,W,3].
    """
    ray_x, ray_y = np.meshgrid(xs, ys)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.where(ray_y > 1e-9, CAMERA_M / ray_y, np.inf)
        depth[depth > FARTHEST_M] = np.inf
        colour = np.where(np.isfinite(depth)[..., None], _ground(ray_x, depth), SKY)
        directions = np.stack([ray_x, ray_y, np.ones_like(ray_x)], axis=-1)
        for block in blocks:
            part = _outline(ys, block, 1), _outline(xs, block, 0)
            rays, nearest = directions[part], depth[part]
            to_low, to_high = np.array(block.low) / rays, np.array(block.high) / rays
            enter, leave = np.minimum(to_low, to_high), np.maximum(to_low, to_high)
            at = enter.max(axis=-1)
            met = (at < leave.min(axis=-1)) & (at < nearest)
            nearest[met] = at[met]
            points = rays[met] * at[met][:, None]
            colour[part][met] = _wall(block, points, enter.argmax(axis=-1)[met])
    return depth, colour


def _outline(tangents: Floats, block: Block, axis: int) -> slice:
    """The range of rays that a block's corners span along one axis."""
    corners = [place / z for place in (block.low[axis], block.high[axis]) for z in (block.low[2], block.high[2])]
    return slice(*np.searchsorted(tangents, (min(corners), max(corners))))


def _grain(points: Floats) -> Floats:
    """Surface texture: a value 0..1 for each point [..., 3], independent of the viewpoint."""
    cell = np.floor(points * np.array([6.0, 6.0, 3.0])).astype(np.int64)
    mixed = (cell @ np.array([73856093, 19349663, 83492791])) % 1009
    return np.asarray((mixed * 577 % 1009) / 1009.0)


def _ground(ray_x: Floats, depth: Floats) -> Floats:
    z = np.where(np.isfinite(depth), depth, 0.0)
    x = ray_x * z
    points = np.stack([x, np.zeros_like(x), z], axis=-1)
    base = np.where((np.abs(x) > 5.0)[..., None], np.array([0.5, 0.5, 0.46]), np.array([0.34, 0.34, 0.36]))
    base = np.where((np.abs(x) > 6.5)[..., None], np.array([0.3, 0.42, 0.22]), base)
    painted = ((np.abs(x) < 0.07) & (np.mod(z, 9) < 4)) | (np.abs(np.abs(x) - 5.0) < 0.08)
    return np.where(painted[..., None], 0.82, base * (0.86 + 0.28 * _grain(points))[..., None])


def _wall(block: Block, points: Floats, face: NDArray[np.intp]) -> Floats:
    """Colours of points [M, 3] on the faces of a block: 0 sides, 1 top and bottom, 2 front."""
    light = np.array([0.78, 1.15, 0.62])[face] * (0.88 + 0.24 * _grain(points))
    colour = np.array(block.colour) * light[:, None]
    if block.windows:
        along = np.where(face == 0, points[:, 2], points[:, 0])
        up = block.high[1] - points[:, 1]
        glass = (np.mod(along, 2.6) > 1.2) & (np.mod(up, 2.9) > 1.1) & (np.mod(up, 2.9) < 2.4)
        colour[glass & (face != 1)] = (0.15, 0.19, 0.25)
    return colour


def draw() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The picture, uint8 [375,1242,3] RGB, and its depth, float32 [375,1242] metres, 0 for the sky."""
    blocks = street()

    def at(samples: int) -> tuple[Floats, Floats]:
        """Cast ``samples`` x ``samples`` rays per pixel."""
        columns, rows = (np.arange(samples * size) / samples for size in (WIDTH, HEIGHT))
        offset = (samples - 1) / (2 * samples)  # centres the samples on the pixel
        return cast((columns - offset - CX_PX) / FX_PX, (rows - offset - CY_PX) / FX_PX, blocks)

    depth, colour = at(2)
    haze = (1 - np.exp(-np.where(np.isfinite(depth), depth, 0.0) / 170))[..., None]
    colour = colour * (1 - haze) + SKY * haze
    rgb = colour.reshape(HEIGHT, 2, WIDTH, 2, 3).mean(axis=(1, 3))
    exact, _ = at(1)
    depth_m = np.where(np.isfinite(exact), exact, 0.0).astype(np.float32)
    return (255 * np.clip(rgb, 0, 1) + 0.5).astype(np.uint8), depth_m


def scan(depth_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """The pixels of a depth map that a laser scanner at the camera's position would measure; 0 elsewhere."""
    azimuth, beam = np.meshgrid(np.radians(AZIMUTH_DEG), np.radians(BEAMS_DEG))
    columns = np.rint(CX_PX + FX_PX * np.tan(azimuth)).astype(int)
    rows = np.rint(CY_PX - FX_PX * np.tan(beam) / np.cos(azimuth)).astype(int)
    inside = (columns >= 0) & (columns < WIDTH) & (rows >= 0) & (rows < HEIGHT)
    found = np.zeros_like(depth_m)
    found[rows[inside], columns[inside]] = depth_m[rows[inside], columns[inside]]
    return found
