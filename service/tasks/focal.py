"""The focal length for metric depth: the client's, the one from the picture's EXIF, or the training camera's."""

import math
from dataclasses import dataclass
from typing import Literal

from service.errors import BadParameterError
from service.imaging import ImageReport
from service.tasks.base import ExifFocal, Geometry

FxSource = Literal["query", "exif", "assumed"]

#: Accepted focal lengths, pixels. No camera is outside this range, and metres stay well within the range of float32.
FX_RANGE_PX = (1.0, 1e6)

#: Accepted focal lengths in picture widths: fields of view of 157 to 0.6 degrees. Others are probably in another unit.
FX_RANGE_WIDTHS = (0.1, 100.0)

#: Diagonal of 35 mm film, mm. Focal lengths "in 35 mm film" are converted by the diagonal field of view (CIPA DCG-001).
_FILM_DIAGONAL_MM = math.hypot(36, 24)

#: Maximum aspect ratio of a single exposure: 35 mm film has 1.5, phones have 1.33 to 2.2. Wider pictures are panoramas,
#: which keep the EXIF focal length of the pictures that they were stitched from.
_SENSOR_ASPECT_MAX = 2.4


@dataclass(frozen=True, slots=True)
class Focal:
    """A focal length and its source.

    Attributes:
        fx_px: Horizontal focal length, in pixels of the uploaded picture.
        source: `query`: sent by the client; `exif`: from the picture's EXIF; `assumed`: the training camera's.
        reason: A sentence for users that explains the choice.
    """

    fx_px: float
    source: FxSource
    reason: str


def check_fx(fx_px: float) -> None:
    """Raises BadParameterError if a focal length is impossible for any picture, or NaN."""
    if not FX_RANGE_PX[0] <= fx_px <= FX_RANGE_PX[1]:
        raise BadParameterError(
            "fx",
            f"fx is {fx_px}; it must be a focal length in pixels of the uploaded picture, {FX_RANGE_WIDTHS[0]:g} to "
            f"{FX_RANGE_WIDTHS[1]:g} times its width, and {FX_RANGE_PX[0]:g} to {FX_RANGE_PX[1]:g} for any.",
            remedy="Leave it out to use EXIF or the training camera, or send width / (2 tan(horizontal view / 2)).",
        )


def exif_focal(report: ImageReport) -> ExifFocal:
    """Computes the focal length from a picture's EXIF by the diagonal of 35 mm film, assuming square pixels."""
    film_mm, width, height = report.exif_focal_35mm, report.width, report.height
    if film_mm is None:
        return ExifFocal(None, "No fx was sent, and the picture's EXIF has no FocalLengthIn35mmFilm.")
    if report.exif_cropped:
        return ExifFocal(
            None, f"No fx was sent, and EXIF's {film_mm} mm are invalid because the picture was cropped later."
        )
    if max(width, height) > _SENSOR_ASPECT_MAX * min(width, height):
        return ExifFocal(None, f"No fx was sent, and EXIF's {film_mm} mm are invalid for a panorama.")
    fx_px = film_mm * math.hypot(width, height) / _FILM_DIAGONAL_MM
    if not _plausible(fx_px, width):
        return ExifFocal(None, f"No fx was sent, and EXIF's {film_mm} mm are implausible for this picture.")
    return ExifFocal(fx_px, f"EXIF's FocalLengthIn35mmFilm of {film_mm} mm, converted by the picture's diagonal.")


def resolve(fx_px: float | None, exif: ExifFocal | None, geometry: Geometry, trained_fx_px: float) -> Focal:
    """Chooses the focal length to use.

    Args:
        fx_px: The client's focal length, in pixels of the uploaded picture, or None.
        exif: The focal length from the picture's EXIF, or None.
        geometry: Geometry of the picture.
        trained_fx_px: The training camera's focal length, in pixels of the network's input.

    Raises:
        BadParameterError: The client's focal length is impossible for a picture of this width.
    """
    if fx_px is not None:
        if not _plausible(fx_px, geometry.picture_width):
            view = math.degrees(2 * math.atan(geometry.picture_width / (2 * fx_px)))
            low, high = (share * geometry.picture_width for share in FX_RANGE_WIDTHS)
            raise BadParameterError(
                "fx",
                f"fx is {fx_px:g}, which means a field of view of {view:.4g} degrees for this picture of "
                f"{geometry.picture_width} pixels' width; {low:g} to {high:g} pixels are accepted.",
                remedy="Send pixels of the uploaded picture, not millimetres: width / (2 tan(horizontal view / 2)), "
                "or focal length / sensor width x width.",
            )
        return Focal(fx_px, "query", "The request's fx.")
    if exif is not None and exif.fx_px is not None:
        return Focal(exif.fx_px, "exif", exif.reason)
    why = "No fx was sent." if exif is None else exif.reason
    return Focal(
        trained_fx_px / geometry.scale_x,
        "assumed",
        f"{why} The training camera's field of view is assumed. For another camera, multiply the depths by its fx / "
        "this fx.",
    )


def _plausible(fx_px: float, width: int) -> bool:
    return FX_RANGE_WIDTHS[0] * width <= fx_px <= FX_RANGE_WIDTHS[1] * width
