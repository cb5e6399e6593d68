"""From uploaded bytes to RGB pixels: the only place that opens untrusted images, with all limits on them.

The same bytes give the same pixels for every variant of a model: the hint that allows a reduced decode comes from
the card's input size, which a model shares with its twin. Colour profiles are not applied, as in the training data.

Pillow's own guard against decompression bombs, `Image.MAX_IMAGE_PIXELS`, is a process-wide variable. This module does
not rely on it: it calls the decoders directly and checks sizes before pixels are allocated. The guard still stops a
WebP or GIF of more than 178,956,970 pixels, so `Settings.max_pixels` must stay below that.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from service import exif, image_cost
from service.errors import BrokenImageError, EmptyBodyError, ImageTooLargeError, ServiceError, UnsupportedImageError
from service.image_header import gif_canvas, gif_frames, looks_like, lost_line_breaks, png_bit_depth, sniff, webp_canvas

# A reduced JPEG keeps this many times the needed size, so that the subsequent scaling hides the reduction.
_OVERSAMPLING = 2

_PLUGINS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}

# Types declared by clients that do not know what they send.
_NEUTRAL_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})

#: EXIF orientation -> (Pillow operation that makes it upright, whether it mirrors, clockwise rotation in degrees).
_UPRIGHT: dict[int, tuple[Image.Transpose, bool, int]] = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, True, 0),
    3: (Image.Transpose.ROTATE_180, False, 180),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, True, 180),
    5: (Image.Transpose.TRANSPOSE, True, 270),
    6: (Image.Transpose.ROTATE_270, False, 90),  # Pillow counts anticlockwise
    7: (Image.Transpose.TRANSVERSE, True, 90),
    8: (Image.Transpose.ROTATE_90, False, 270),
}
_SIDEWAYS = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits on what is decoded.

    Attributes:
        max_pixels: Largest width x height, according to the header, checked before anything is decoded.
        max_side: Longest side, likewise. No JPEG, GIF or WebP can exceed the default. A PNG a few pixels wide can, and
            its millions of rows take ten times as long to decode as an ordinary image with as many pixels.
    """

    max_pixels: int = 50_000_000
    max_side: int = 65_535

    def check(self, width: int, height: int) -> None:
        """Raises ImageTooLargeError if a size, in pixels, exceeds the limit."""
        if width * height > self.max_pixels or max(width, height) > self.max_side:
            raise ImageTooLargeError(width, height, self.max_pixels, self.max_side)


class ImageReport(NamedTuple):
    """The properties of an upload, and how it was converted.

    Attributes:
        format: `JPEG`, `PNG`, `WEBP`, `BMP` or `GIF`, by content.
        width: Width of the image at full resolution and upright (after EXIF rotation), pixels. All coordinates
            in answers refer to this image.
        height: Its height, pixels.
        mode: The file's own pixel format: `RGB`, `L`, `LA`, `P`, `RGBA`, `CMYK`, `1`, `I;16`, `RGB;16`, ...
        converted: The conversion to 8-bit RGB ("alpha composited on white", ...), or None.
        exif_orientation: The EXIF tag, 1..8; 1 if there is none.
        exif_rotation: Clockwise rotation that was applied, degrees: 0, 90, 180 or 270.
        exif_mirrored: Whether the image was mirrored left to right before the rotation.
        exif_focal_35mm: The EXIF tag `FocalLengthIn35mmFilm`, mm; None if there is none.
        exif_cropped: EXIF states a different aspect ratio: the image was cropped after it was taken, or stitched.
        frames: Number of frames; 1 for a still image.
        frames_dropped: Frames that were ignored: all but the first.
        reduction: The JPEG was decoded at 1/reduction of its size (1, 2, 4 or 8), because the network needs no more.
    """

    format: str
    width: int
    height: int
    mode: str
    converted: str | None = None
    exif_orientation: int = 1
    exif_rotation: int = 0
    exif_mirrored: bool = False
    exif_focal_35mm: int | None = None
    exif_cropped: bool = False
    frames: int = 1
    frames_dropped: int = 0
    reduction: int = 1


@dataclass(frozen=True)
class DecodedImage:
    """A decoded upload: upright, RGB, at 1/report.reduction of its full size.

    Attributes:
        image: The pixels as a Pillow image of mode RGB; do not modify it.
        report: The properties of the upload.
    """

    image: Image.Image
    report: ImageReport

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """A copy of the pixels: uint8 [H, W, 3] RGB, contiguous."""
        return np.array(self.image, dtype=np.uint8, order="C")


def decode(
    data: bytes,
    content_type: str | None = None,
    limits: ImageLimits | None = None,
    *,
    hint: tuple[int, int] | None = None,
) -> DecodedImage:
    """Decodes an uploaded image. Blocks for milliseconds: call it in a thread.

    Args:
        data: The file's bytes.
        content_type: The type that the client declared, or None. A type that is not an image's is rejected. It is
            never trusted otherwise: the content determines the format.
        limits: Limits on what is decoded; None for the defaults.
        hint: (height, width) in pixels, from `Task.decode_hint(card)`. A large JPEG may be decoded at 1/2, 1/4 or 1/8
            of its size if the upright image keeps at least twice the hint in both directions.

    Returns:
        Upright RGB pixels, and a report of how they were obtained.

    Raises:
        EmptyBodyError: There are no bytes (400).
        UnsupportedImageError: Not a JPEG, PNG, WebP, BMP or GIF, or not declared as an image (415).
        BrokenImageError: The file is truncated or corrupt (422).
        ImageTooLargeError: It has more pixels than the limit (413); found before decoding.
        ImageTooComplexError: It has far more parts than ordinary files (413); found before decoding.
    """
    limits = limits or ImageLimits()
    if not data:
        raise EmptyBodyError("The image is empty.", remedy="Check that the file was read, and send its bytes.")
    _check_declared(content_type)
    kind = sniff(data)
    if kind is None:
        remedy = UnsupportedImageError.curl_remedy if lost_line_breaks(data) else None
        raise UnsupportedImageError(f"The content seems to be {looks_like(data)}.", remedy=remedy)
    # These two decoders allocate, or fail by Pillow's own limit, before they report their size.
    canvas = webp_canvas(data) if kind == "WEBP" else gif_canvas(data) if kind == "GIF" else None
    if canvas is not None:
        limits.check(*canvas)
    image_cost.check_file(data, kind)
    try:
        return _decode(data, kind, limits, hint)
    except (ServiceError, MemoryError):
        raise
    except Exception as error:
        # A decoder fed untrusted bytes may raise anything, and the file is always to blame.
        raise BrokenImageError(f"The {kind} file is truncated or corrupt ({error}).") from error


def _decode(data: bytes, kind: str, limits: ImageLimits, hint: tuple[int, int] | None) -> DecodedImage:
    image = _PLUGINS[kind](io.BytesIO(data))  # reads headers only
    limits.check(*image.size)
    image_cost.check_pixels(data, kind, image.size, limits.max_pixels)
    stored_width, stored_height = image.size
    tags = exif.read(image) if kind in {"JPEG", "WEBP"} else exif.Exif()  # before a reduction changes the size
    orientation = tags.orientation
    reduction = _reduce(image, orientation, hint) if kind == "JPEG" else 1
    frames = gif_frames(data) if kind == "GIF" else int(getattr(image, "n_frames", 1))
    image.load()
    if kind == "PNG":
        tags = exif.read(image)  # the EXIF chunk may follow the pixels
        orientation = tags.orientation
    mode, rgb, converted = image.mode, *_to_rgb(image)
    if kind == "PNG" and png_bit_depth(data) == 16 and not mode.startswith("I"):
        mode = f"{mode};16"  # Pillow silently keeps only the high bytes of 16-bit colour
        converted = _join("16 bits a channel reduced to 8", converted)
    mirrored, rotation = False, 0
    if orientation in _UPRIGHT:
        operation, mirrored, rotation = _UPRIGHT[orientation]
        rgb = rgb.transpose(operation)
    sideways = orientation in _SIDEWAYS
    report = ImageReport(
        format=kind,
        width=stored_height if sideways else stored_width,
        height=stored_width if sideways else stored_height,
        mode=mode,
        converted=converted,
        exif_orientation=orientation,
        exif_rotation=rotation,
        exif_mirrored=mirrored,
        exif_focal_35mm=tags.focal_35mm,
        exif_cropped=tags.cropped,
        frames=max(1, frames),
        frames_dropped=max(0, frames - 1),
        reduction=reduction,
    )
    return DecodedImage(rgb, report)


def _check_declared(content_type: str | None) -> None:
    declared = (content_type or "").partition(";")[0].strip().lower()
    if declared in _NEUTRAL_TYPES or declared.startswith("image/"):
        return
    raise UnsupportedImageError(f"The content type {declared[:100]!r} is not an image type.")


def _reduce(image: ImageFile.ImageFile, orientation: int, hint: tuple[int, int] | None) -> int:
    """Makes the JPEG decoder use the smallest size that keeps the oversampling.

    A reduced decode shrinks whole 8x8 blocks to 4x4, 2x2 or 1x1, so pixel x of the result covers exactly the pixels
    [x * reduction, (x + 1) * reduction) of the full image.

    Returns:
        The reduction: 1, 2, 4 or 8.
    """
    if hint is None:
        return 1
    height, width = (hint[1], hint[0]) if orientation in _SIDEWAYS else hint
    full_width = image.size[0]
    image.draft(None, (_OVERSAMPLING * width, _OVERSAMPLING * height))
    return round(full_width / image.size[0])


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Converts a loaded image of any mode to RGB.

    Returns:
        The image, and a description of the conversion; None if there was none.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _wide_to_rgb(image)
    if image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        return _composite_on_white(image)
    if image.mode == "RGB":
        return image, None
    words = {
        "1": "black and white copied to three channels",
        "L": "grey copied to three channels",
        "P": "palette looked up",
        "CMYK": "CMYK converted without a colour profile",
    }
    return image.convert("RGB"), words.get(image.mode, f"{image.mode} converted")


def _composite_on_white(image: Image.Image) -> tuple[Image.Image, str | None]:
    if image.mode == "RGB" and isinstance(key := image.info.get("transparency"), tuple) and max(key) > 255:
        image.info["transparency"] = tuple(part >> 8 for part in key)  # the key has 16 bits, the pixels only 8
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba.convert("RGB"), mask=alpha)
    opaque = alpha.getextrema() == (255, 255)
    words = "opaque alpha dropped" if opaque else "alpha composited on white"
    return white, _join("palette looked up" if image.mode in {"P", "PA"} else None, words)


def _wide_to_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Converts 16-bit grey by its high byte, as Pillow does for colour; Pillow's conversion of grey clips at 255."""
    wide = np.asarray(image)
    grey = (np.clip(wide, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
    words = "16-bit grey reduced to 8 bits and copied to three channels"
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey = np.where(wide == key, np.uint8(255), grey)
        words = _join(words, "alpha composited on white") or words
    return Image.fromarray(grey).convert("RGB"), words


def _join(*parts: str | None) -> str | None:
    """Joins the parts that are not None: "a, b"; None if all are."""
    return ", ".join(part for part in parts if part) or None
