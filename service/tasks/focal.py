"""The focal length on which metres rest: the client's, the one in the picture's EXIF, or the training camera's."""

import math
from dataclasses import dataclass
from typing import Literal

from service.errors import BadParameterError
from service.imaging import ImageReport
from service.tasks.base import ExifFocal, Geometry

FxSource = Literal["query", "exif", "assumed"]

#: Focal lengths that are taken, pixels: no camera is outside, and metres stay far from the ends of float32.
FX_RANGE_PX = (1.0, 1e6)

#: The same, in widths of the picture: views of 157 to 0.6 degrees. Beyond it the value is in another unit.
FX_RANGE_WIDTHS = (0.1, 100.0)

#: Diagonal of 35 mm film, mm: focal lengths "in 35 mm film" are converted by the diagonal view (CIPA DCG-001).
_FILM_DIAGONAL_MM = math.hypot(36, 24)

#: Longer side / shorter side from which on a picture is not one exposure of a sensor: 35 mm film has 1.5, phones 1.33
#: to 2.2, and a panorama keeps the tag of the lens that it was stitched from.
_SENSOR_ASPECT_MAX = 2.4


@dataclass(frozen=True, slots=True)
class Focal:
    """A focal length and where it came from.

    Attributes:
        fx_px: Horizontal, pixels of the uploaded picture.
        source: `query`: the client's; `exif`: the picture's file tells it; `assumed`: the training camera's.
        reason: Why that one: a sentence for people.
    """

    fx_px: float
    source: FxSource
    reason: str


def check_fx(fx_px: float) -> None:
    """Raises BadParameterError for what is no focal length of any picture; also for NaN."""
    if not FX_RANGE_PX[0] <= fx_px <= FX_RANGE_PX[1]:
        raise BadParameterError(
            "fx",
            f"fx is {fx_px}; it must be a focal length of {FX_RANGE_PX[0]:g} to {FX_RANGE_PX[1]:g} pixels "
            "of the uploaded picture.",
            remedy="Leave it out to assume the training camera, or send width / (2 tan(horizontal view / 2)).",
        )


def exif_focal(report: ImageReport) -> ExifFocal:
    """The focal length that a picture's EXIF tells, by the diagonal of 35 mm film; pixels are taken as square."""
    film_mm, width, height = report.exif_focal_35mm, report.width, report.height
    if film_mm is None:
        return ExifFocal(None, "No fx was sent, and the picture's EXIF has no FocalLengthIn35mmFilm.")
    if report.exif_cropped:
        return ExifFocal(None, f"No fx was sent, and EXIF's {film_mm} mm are those of a picture of another aspect.")
    if max(width, height) > _SENSOR_ASPECT_MAX * min(width, height):
        return ExifFocal(
            None, f"No fx was sent, and EXIF's {film_mm} mm cannot be those of a panorama: it is too wide."
        )
    fx_px = film_mm * math.hypot(width, height) / _FILM_DIAGONAL_MM
    if not _plausible(fx_px, width):
        return ExifFocal(None, f"No fx was sent, and EXIF's {film_mm} mm cannot be true of this picture.")
    return ExifFocal(fx_px, f"EXIF's FocalLengthIn35mmFilm of {film_mm} mm, by the diagonal of the picture.")


def resolve(fx_px: float | None, told: ExifFocal | None, geometry: Geometry, trained_fx_px: float) -> Focal:
    """The focal length that counts.

    Args:
        fx_px: The client's, pixels of the uploaded picture, or None.
        told: What the picture's EXIF tells, or None.
        geometry: Of the picture.
        trained_fx_px: The training camera's, pixels of the network's width.

    Raises:
        BadParameterError: The client's cannot be that of a picture of this width.
    """
    if fx_px is not None:
        if not _plausible(fx_px, geometry.picture_width):
            view = math.degrees(2 * math.atan(geometry.picture_width / (2 * fx_px)))
            low, high = (share * geometry.picture_width for share in FX_RANGE_WIDTHS)
            raise BadParameterError(
                "fx",
                f"fx is {fx_px:g}, which would be a view of {view:.4g} degrees for this picture of "
                f"{geometry.picture_width} pixels' width; {low:g} to {high:g} pixels are taken.",
                remedy="Send pixels of the uploaded picture, not millimetres: width / (2 tan(horizontal view / 2)), or "
                "focal length / sensor width x width.",
            )
        return Focal(fx_px, "query", "The request's fx.")
    if told is not None and told.fx_px is not None:
        return Focal(told.fx_px, "exif", told.reason)
    why = "No fx was sent." if told is None else told.reason
    return Focal(
        trained_fx_px / geometry.scale_x,
        "assumed",
        f"{why} The training camera's field of view is assumed: for another, multiply the metres by its fx / this one.",
    )


def _plausible(fx_px: float, width: int) -> bool:
    return FX_RANGE_WIDTHS[0] * width <= fx_px <= FX_RANGE_WIDTHS[1] * width
