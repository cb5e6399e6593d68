"""What a picture's EXIF says about how it was taken. Metadata is optional: damage in it never costs a sound picture."""

import math
from dataclasses import dataclass

from PIL import Image

_ORIENTATION = 0x0112
_DETAILS = 0x8769  # the tag that points to the directory of the following ones
_WIDTH, _HEIGHT = 0xA002, 0xA003  # of the picture as the camera stored it
_FOCAL_35MM = 0xA405

#: Focal lengths on 35 mm film that are believed, mm: from the widest fisheye to the longest telescope.
_FOCAL_RANGE_MM = (4, 5000)

#: Ratio of two aspects from which on they are different ones; rounding to whole pixels and blocks stays below it.
_ASPECT_TOLERANCE = 1.02


@dataclass(frozen=True, slots=True)
class Exif:
    """The tags that are used.

    Attributes:
        orientation: 1..8; 1 where there is none.
        focal_35mm: `FocalLengthIn35mmFilm`, mm; None where there is none.
        cropped: The picture has another aspect than its camera stored: it was cut afterwards, or stitched together.
    """

    orientation: int = 1
    focal_35mm: int | None = None
    cropped: bool = False


def read(image: Image.Image) -> Exif:
    """The tags of an opened picture; those that cannot be read count as missing."""
    try:
        tags = image.getexif()
        orientation = tags.get(_ORIENTATION, 1)
        details = tags.get_ifd(_DETAILS)
        focal, width, height = (details.get(tag) for tag in (_FOCAL_35MM, _WIDTH, _HEIGHT))
    except Exception:  # noqa: BLE001  strangers' bytes: a parser raises whatever it trips over
        return Exif(_orientation(image))
    return Exif(
        orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
        focal if isinstance(focal, int) and _FOCAL_RANGE_MM[0] <= focal <= _FOCAL_RANGE_MM[1] else None,
        _cropped(image.size, width, height),
    )


def _orientation(image: Image.Image) -> int:
    """Alone, where the rest is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  as above
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _cropped(size: tuple[int, int], width: object, height: object) -> bool:
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        return False
    ratio = abs(math.log(size[0] / size[1]))  # of the longer side to the shorter: some programs rotate and tell nobody
    return abs(ratio - abs(math.log(width / height))) > math.log(_ASPECT_TOLERANCE)
