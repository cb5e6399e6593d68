"""Sample pictures of the web page, drawn procedurally so that no licence terms apply to them.

`python -m loadtest.samples` writes them into service/ui. Predictions on these drawings demonstrate the page; they say
nothing about accuracy.
"""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from loadtest.pictures import Floats, noise
from loadtest.stack import ROOT

_SKY = np.array([0.62, 0.78, 0.94])
_QUALITY = 88


def coffee(width: int = 512, height: int = 384) -> Image.Image:
    """A cup of coffee on a dark wooden table, seen at an angle."""
    y, x = np.mgrid[0:height, 0:width]
    grain = noise(height, 4 * width, 12, 1.1)[:, ::4]
    scene = np.array([0.33, 0.20, 0.12]) * (0.55 + 0.9 * grain)[..., None]
    cx, cy, slant = 0.47 * width, 0.46 * height, 0.62
    light = np.clip(1.08 - 0.35 * ((x - cx) / width + (y - cy) / height), 0, 1.2)[..., None]
    china = np.array([0.93, 0.92, 0.89])

    def disc(radius: float, drop: float, edge: float = 1.5) -> Floats:
        """How far each pixel lies inside a slanted circle, 0..1 over `edge` pixels; [H, W, 1]."""
        reach = np.hypot(x - cx, (y - cy - drop) / slant)
        inside: Floats = np.clip((radius - reach) / edge, 0, 1)[..., None]
        return inside

    def paint(mask: Floats, colour: Floats) -> None:
        scene[:] = scene * (1 - mask) + colour * mask

    paint(0.75 * disc(205, 118, 40), np.zeros(3))  # the saucer's shadow
    paint(disc(196, 96), china * light * 0.92)
    paint(disc(180, 98, 8), china * light * 0.80)
    paint(0.55 * disc(140, 96, 40), np.array([0.2, 0.15, 0.12]))
    grip = np.hypot((x - cx - 158) / 46, (y - cy - 30) / 34)
    paint(
        np.clip((0.17 - np.abs(grip - 0.82)) * 30, 0, 1)[..., None],
        china * light * (0.78 - 0.2 * (y - cy - 30)[..., None] / 60),
    )
    for step in range(90):  # the wall of the cup, narrower towards its foot
        radius = 132 - 52 * (1 - step / 89) ** 1.6
        round_light = 0.62 + 0.38 * np.clip(1 - np.abs((x - cx + 40) / 150), 0, 1)[..., None]
        paint(disc(radius, 90 - step), china * round_light)
    paint(disc(132, 0), china * 1.02)
    paint(disc(121, 2, 3), china * 0.62)
    swirl = noise(height, width, 7, 1.5)[..., None]
    reach = np.hypot(x - cx, (y - cy - 16) / slant)[..., None]
    crema = np.array([0.52, 0.31, 0.13]) * (0.6 + 0.7 * swirl) * (0.75 + 0.45 * np.clip((reach - 60) / 50, 0, 1))
    inside = disc(119, 4) * disc(112, 16, 2)
    paint(inside, crema)
    glint = np.exp(-((((x - cx + 45) / 34) ** 2 + ((y - cy + 14) / 9) ** 2) ** 2))[..., None]
    paint(0.5 * glint * inside, np.ones(3))
    return _picture(scene, blur=0.7)


def ladybird(width: int = 512, height: int = 384) -> Image.Image:
    """A ladybird on a leaf."""
    wide, high = 4 / 3 * width, 4 / 3 * height  # the units of all lengths below; the leaf needs room around the beetle
    y, x = np.mgrid[0:height, 0:width] * (4 / 3)
    leaf = noise(height, width, 3, 1.3)
    vein = np.minimum(np.abs(np.mod(x * 0.6 + np.abs(y - 0.55 * high) * 0.9, 64) - 32), np.abs(y - 0.55 * high) * 0.8)
    scene = np.array([0.28, 0.52, 0.16]) * (0.65 + 0.6 * leaf)[..., None] * (1 + 0.35 * np.exp(-vein / 2.5))[..., None]
    cx, cy = 0.52 * wide, 0.47 * high

    def paint(mask: Floats, colour: Floats) -> None:
        scene[:] = scene * (1 - mask[..., None]) + colour * mask[..., None]

    shadow = np.exp(-((((x - cx - 12) / 165) ** 2 + ((y - cy - 34) / 120) ** 2) ** 3))
    paint(0.75 * shadow, np.array([0.04, 0.08, 0.02]))
    for foot in (-90, -10, 75):  # legs
        for sign in (-1, 1):
            along = np.clip(sign * (y - cy) / 135, 0, 1)
            line = np.abs(x - cx - foot * (1 + 0.35 * along**2))
            paint(np.clip((6 - line) / 2, 0, 1) * (along > 0.4) * (along < 0.99), np.full(3, 0.05))
    u, v = (x - cx) / 140, (y - cy) / 108
    for centre, size, colour in ((-1.02, 0.42, 0.06), (-0.86, 0.58, 0.04)):
        part = np.clip((size - np.hypot(u - centre, 0.92 * v)) * 60, 0, 1)
        lit = colour + 0.25 * np.exp(-(((u - centre + 0.12) / 0.16) ** 2 + ((v + 0.25) / 0.14) ** 2))
        paint(part, np.ones((height, width, 3)) * lit[..., None])
    for sign in (-1, 1):  # the white cheeks
        paint(np.clip((0.14 - np.hypot((u + 1.06) * 1.1, v - 0.33 * sign)) * 50, 0, 1), np.array([0.95, 0.94, 0.88]))
    w = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
    shell = np.clip((1 - np.hypot(u, v)) * 90, 0, 1)
    light = np.clip(-0.35 * u - 0.60 * v + 0.72 * w, 0, 1)
    red = np.array([0.84, 0.09, 0.05]) * (0.28 + 0.80 * light)[..., None] + 0.55 * (light**30)[..., None]
    paint(shell, red)
    dark = np.full(3, 0.05) + 0.35 * (light**30)[..., None]
    for place_u, place_v, size in (
        (-0.72, 0, 0.2),
        (-0.28, 0.48, 0.19),
        (-0.28, -0.48, 0.19),
        (0.22, 0.36, 0.2),
        (0.22, -0.36, 0.2),
        (0.6, 0.5, 0.15),
        (0.6, -0.5, 0.15),
    ):
        paint(np.clip((size - np.hypot(u - place_u, v - place_v)) * 50, 0, 1) * shell, dark)
    paint(np.clip((0.018 - np.abs(v)) * 160, 0, 1) * shell * (u > -0.9), np.full(3, 0.06))
    return _picture(scene, blur=0.8)


def fence(width: int = 512, height: int = 384) -> Image.Image:
    """A white picket fence in front of bushes."""
    y, x = np.mgrid[0:height, 0:width]
    scene = np.array([0.25, 0.45, 0.15]) * (0.4 + 0.9 * noise(height, width, 61, 1.1))[..., None]
    sky = np.array([0.60, 0.77, 0.93]) * (0.9 + 0.15 * noise(height, width, 62, 1.7))[..., None]
    scene = np.where((y < 0.22 * height)[..., None], sky, scene)
    bushes = np.array([0.12, 0.28, 0.09]) * (0.4 + 1.2 * noise(height, width, 64, 0.8))[..., None]
    tops = 0.30 * height - 60 + 70 * (noise(height, width, 63, 1.0) - 0.5)
    scene = np.where(((y > tops) & (y < 0.75 * height))[..., None], bushes, scene)
    wood = (0.85 + 0.15 * noise(height, 4 * width, 65, 1.0)[:, ::4])[..., None]
    for top in (0.50, 0.74):  # the rails
        rail = (y > top * height) & (y < (top + 0.06) * height)
        scene = np.where(rail[..., None], 0.80 * wood, scene)
    for centre in range(10, width + 16, 46):  # the pickets, each with its shadow
        across = np.abs(x - centre)
        tip, foot = 0.30 * height + 1.15 * across, 0.95 * height
        shadow = (np.abs(x - centre - 5) < 15) & (y > tip + 4) & (y < foot)
        scene = np.where(shadow[..., None], 0.55 * scene, scene)
        picket = (across < 15) & (y > tip) & (y < foot)
        scene = np.where(picket[..., None], np.array([0.96, 0.96, 0.94]) * wood, scene)
    return _picture(scene, blur=0.7)


def road(width: int = 992, height: int = 300) -> Image.Image:
    """A street between two rows of houses with parked cars, by ray casting from 1.65 m up, focal length 0.58 widths."""
    fx, camera_m = 0.58 * width, 1.65
    y, x = np.mgrid[0:height, 0:width] + 0.5
    ray_x, ray_y = (x - width / 2) / fx, (y - 0.46 * height) / fx  # at a depth of 1 m
    depth = np.full((height, width), np.inf)
    scene = np.ones((height, width, 3)) * (0.80 * _SKY + 0.2 * noise(height, width, 1, 1.6)[..., None])
    fine = noise(height, width, 6, 0.5)

    def put(at_m: Floats, where: npt.NDArray[np.bool_], colour: Floats) -> None:
        nearer = where & (at_m > 0.5) & (at_m < depth)
        depth[nearer] = at_m[nearer]
        scene[nearer] = colour[nearer]

    with np.errstate(divide="ignore", invalid="ignore"):
        ground_m = np.where(ray_y > 1e-6, camera_m / ray_y, np.inf)
        side_m = np.where(np.isfinite(ground_m), ray_x * ground_m, 0)
        asphalt = np.array([0.36, 0.36, 0.38]) * (0.85 + 0.3 * fine)[..., None]
        paving = np.array([0.56, 0.54, 0.50]) * (0.85 + 0.3 * fine)[..., None]
        ground = np.where((np.abs(side_m) > 4.2)[..., None], paving, asphalt)
        dashes = (np.abs(side_m) < 0.09) & (np.mod(np.where(np.isfinite(ground_m), ground_m, 0), 9) < 4)
        kerb = np.abs(np.abs(side_m) - 4.2) < 0.12
        ground[dashes | kerb] = (0.86, 0.86, 0.84)
        put(ground_m, np.isfinite(ground_m), ground)
        for sign, wall_m, seed in ((-1, 7.5, 21), (1, 8.5, 22)):
            _houses(put, np.where(sign * ray_x > 1e-6, sign * wall_m / ray_x, np.inf), ray_y, camera_m, seed)
        for left_m, near_m, colour in (
            (-4.0, 9.0, (0.62, 0.10, 0.10)),
            (-4.1, 16.5, (0.82, 0.82, 0.84)),
            (-4.0, 31.0, (0.15, 0.22, 0.40)),
            (2.3, 12.5, (0.20, 0.30, 0.52)),
            (2.4, 23.0, (0.12, 0.12, 0.13)),
            (0.7, 42.0, (0.72, 0.72, 0.70)),
        ):
            _car(put, ray_x, ray_y, camera_m, left_m, near_m, np.array(colour))
        for side, at_m, seed in ((-1, 22.0, 31), (1, 17.0, 32), (1, 34.0, 33), (-1, 44.0, 34)):
            _tree(put, ray_x, ray_y, camera_m, side * 6.0, at_m, noise(height, width, seed, 0.9))
    haze = (1 - np.exp(-np.where(np.isfinite(depth), depth, 0) / 160))[..., None]
    return _picture(scene * (1 - haze) + _SKY * haze, blur=0.5)


Put = Callable[[Floats, npt.NDArray[np.bool_], Floats], None]


def _houses(put: Put, wall_m: Floats, ray_y: Floats, camera_m: float, seed: int) -> None:
    """A row of house fronts, 12 m each, along one side."""
    finite = np.isfinite(wall_m)
    at_m = np.where(finite, wall_m, 0)
    up_m = camera_m - ray_y * at_m
    house = np.floor(at_m / 12).astype(int) % 64
    rng = np.random.default_rng(seed)
    tint, tall_m = 0.45 + 0.42 * rng.random((64, 3)) * np.array([1, 0.86, 0.72]), 6 + 5 * rng.random(64)
    colour = tint[house]
    window = (np.mod(at_m, 3) > 1.1) & (np.mod(at_m, 3) < 2.2) & (np.mod(up_m, 3) > 1.0) & (np.mod(up_m, 3) < 2.4)
    colour = np.where(window[..., None], np.array([0.17, 0.21, 0.27]), colour)
    put(wall_m, finite & (at_m < 90) & (up_m > 0) & (up_m < tall_m[house]), colour)
    roof = finite & (at_m < 90) & (up_m >= tall_m[house]) & (up_m < tall_m[house] + 1.6)
    put(wall_m, roof, np.ones_like(colour) * np.array([0.40, 0.22, 0.18]))


def _car(put: Put, ray_x: Floats, ray_y: Floats, camera_m: float, left_m: float, near_m: float, colour: Floats) -> None:
    """A parked car as two boxes, body and cabin, with visible backs and street-facing sides."""
    for low, high, inset, length, shade in ((0.35, 0.95, 0.0, 4.2, 1.0), (0.95, 1.45, 0.18, 2.4, 0.3)):
        near, left, right = near_m + 2 * inset, left_m + inset, left_m + 1.75 - inset
        paint = np.ones((*ray_x.shape, 3)) * (colour * shade + 0.04)
        back_up = camera_m - ray_y * near
        back = (ray_x * near > left) & (ray_x * near < right) & (back_up > low) & (back_up < high)
        lamps = (np.abs(ray_x * near - (left + right) / 2) > 0.62) & (back_up > 0.7) & (shade == 1.0)
        put(np.full(ray_x.shape, near), back, np.where(lamps[..., None], np.array([0.75, 0.12, 0.08]), paint))
        flank_x = right if left_m < 0 else left
        flank_m = np.where(np.abs(ray_x) > 1e-6, flank_x / np.where(np.abs(ray_x) > 1e-6, ray_x, 1), np.inf)
        up = camera_m - ray_y * flank_m
        put(flank_m, (flank_m > near) & (flank_m < near + length) & (up > low) & (up < high), 0.75 * paint)
        if high < 1.45:
            top_m = np.where(ray_y > 1e-6, (camera_m - high) / np.where(ray_y > 1e-6, ray_y, 1), np.inf)
            over = np.where(np.isfinite(top_m), ray_x * top_m, 0)
            put(top_m, (top_m > near) & (top_m < near + length) & (over > left) & (over < right), 1.25 * paint)
    wheel_up = camera_m - ray_y * near_m
    for centre in (left_m + 0.25, left_m + 1.5):
        tyre = (np.abs(ray_x * near_m - centre) < 0.14) & (wheel_up > 0) & (wheel_up < 0.4)
        put(np.full(ray_x.shape, near_m + 0.01), tyre, np.ones((*ray_x.shape, 3)) * 0.06)


def _tree(put: Put, ray_x: Floats, ray_y: Floats, camera_m: float, x_m: float, at_m: float, leaves: Floats) -> None:
    side, up = ray_x * at_m - x_m, camera_m - ray_y * at_m
    where = np.full(ray_x.shape, at_m)
    put(where, (np.abs(side) < 0.16) & (up > 0) & (up < 4), np.ones((*ray_x.shape, 3)) * np.array([0.30, 0.22, 0.16]))
    crown = (side / 1.9) ** 2 + ((up - 4.6) / 2.1) ** 2 < 0.65 + 0.6 * leaves
    put(where, crown, np.array([0.16, 0.36, 0.12]) * (0.5 + 1.1 * leaves)[..., None])


def _picture(scene: Floats, *, blur: float) -> Image.Image:
    """Converts linear 0..1 [H, W, 3] to an image, slightly blurred as by a lens."""
    pixels = (255 * np.clip(scene, 0, 1) + 0.5).astype(np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(blur))


#: File names and the functions that draw them.
SAMPLES: dict[str, Callable[[], Image.Image]] = {
    "sample-ladybird.jpg": ladybird,
    "sample-coffee.jpg": coffee,
    "sample-fence.jpg": fence,
    "sample-road.jpg": road,
}


def encoded(name: str) -> bytes:
    """One of the pictures as a JPEG file."""
    stream = io.BytesIO()
    SAMPLES[name]().save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return stream.getvalue()


if __name__ == "__main__":
    for sample in SAMPLES:
        (ROOT / "service" / "ui" / sample).write_bytes(encoded(sample))
