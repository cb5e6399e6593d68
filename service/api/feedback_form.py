"""The form of `/feedback/depth` (token, picture and ground truth), and the reader of ground truth."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from service.api.body import in_time, refuse_encoded
from service.api.uploads import InMemoryParser, image_type
from service.errors import (
    BadParameterError,
    EmptyBodyError,
    GroundTruthError,
    MalformedBodyError,
)
from service.pipeline import Upload
from service.scheduler import Deadline

_FILES = {"picture": "the same picture, byte for byte", "truth": "the ground truth"}
_REMEDY = "Send metres, in the picture's size, as a 16-bit grey PNG (metres * 256, 0 if unknown) or a float32 .npy."
_NPY_MAGIC = b"\x93NUMPY"

DEPTH_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The answer's `feedback_token`, the same picture, and the ground truth in metres at the size of "
        "the picture: a 16-bit grey PNG as in KITTI (metres x 256, 0 where unknown) or a float32 .npy.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["token", *_FILES],
                    "properties": {
                        "token": {"type": "string"},
                        **{name: {"type": "string", "format": "binary"} for name in _FILES},
                    },
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True)
class DepthForm:
    """The parts of the form."""

    token: str
    picture: Upload
    truth: Upload


async def read_depth_form(request: Request, deadline: Deadline) -> DepthForm:
    """Reads the form.

    Raises:
        MalformedBodyError: The body is not a multipart form, or cannot be parsed.
        BadParameterError: A part is missing, unknown or repeated.
        EmptyBodyError: A part is empty.
        UploadTimeoutError: The body was not complete in time.
        UnsupportedEncodingError: The body is compressed.
    """
    refuse_encoded(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise MalformedBodyError(
            "The body is not a multipart form.",
            remedy="Build one with curl -F token=... -F picture=@road.jpg -F truth=@depth.png.",
        )
    parser = InMemoryParser(request.headers, request.stream(), max_files=len(_FILES), max_fields=1 + len(_FILES))
    try:
        return _form(await in_time(_parts(parser), deadline))
    except MultiPartException as error:
        raise MalformedBodyError(f"The multipart body cannot be parsed: {error.message.rstrip('.')}.") from None


async def _parts(parser: InMemoryParser) -> list[tuple[str, tuple[bytes, str | None] | str]]:
    form = await parser.parse()
    try:
        return [
            (name, (await value.read(), value.content_type) if isinstance(value, UploadFile) else value)
            for name, value in form.multi_items()
        ]
    finally:
        await form.close()


def _form(sent: Sequence[tuple[str, tuple[bytes, str | None] | str]]) -> DepthForm:
    parts = dict(sent)
    for name in parts.keys() - {"token", *_FILES}:
        raise BadParameterError(
            name, f"The form has an unknown part {name[:40]!r}.", remedy="Send token, picture and truth."
        )
    if len(parts) < len(sent):
        raise BadParameterError("body", "The form has a part twice.", remedy="Send token, picture and truth once each.")
    token = parts.get("token")
    if not isinstance(token, str):
        raise BadParameterError(
            "token", "The form has no text part `token`.", remedy="Send the answer's feedback_token."
        )
    uploads = {}
    for name, what in _FILES.items():
        part = parts.get(name)
        if not isinstance(part, tuple):
            raise BadParameterError(name, f"The form has no file `{name}`.", remedy=f"Send {what} as a file.")
        if not part[0]:
            raise EmptyBodyError(f"The file `{name}` in the form is empty.", remedy=f"Send {what} as a file.")
        uploads[name] = Upload(part[0], image_type(part[1]) if name == "picture" else None, name)
    return DepthForm(token, uploads["picture"], uploads["truth"])


def read_truth(upload: Upload, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Reads a ground truth. Its size is checked before its pixels are decoded.

    Args:
        upload: A 16-bit PNG or an .npy.
        size: Required height and width, pixels: those of the upright picture.

    Returns:
        float32 [H, W], metres, 0 where there is none.

    Raises:
        GroundTruthError: It is neither format, is damaged, or has a different size.
    """
    truth_m = _read_npy(upload.data, size) if upload.data.startswith(_NPY_MAGIC) else _read_png(upload.data, size)
    return np.where(np.isfinite(truth_m) & (truth_m > 0), truth_m, np.float32(0))


def _read_png(data: bytes, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            _check_png(image, size)
            values = np.asarray(image).astype(np.float32)
    except GroundTruthError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        raise GroundTruthError("The ground truth is neither a readable PNG nor an .npy.", remedy=_REMEDY) from error
    return values / np.float32(256)


def _check_png(image: Image.Image, size: tuple[int, int]) -> None:
    _check_size((image.height, image.width), size)
    if image.mode not in {"I;16", "I;16B", "I"}:
        raise GroundTruthError(f"The ground truth is a PNG of mode {image.mode}, not 16-bit grey.", remedy=_REMEDY)


def _read_npy(data: bytes, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)  # reads only the header, and allocates nothing of what it claims
    except Exception as error:  # NumPy parses it as a Python literal: TokenError, TypeError, IndexError, SyntaxError
        raise GroundTruthError("The .npy of the ground truth has a damaged header.", remedy=_REMEDY) from error
    if dtype.hasobject or dtype.kind != "f":
        raise GroundTruthError(f"The .npy contains {dtype}, not floating-point metres.", remedy=_REMEDY)
    _check_size(shape, size)
    body = data[file.tell() :]
    if len(body) != dtype.itemsize * size[0] * size[1]:
        raise GroundTruthError("The length of the .npy does not match its header.", remedy=_REMEDY)
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.frombuffer(body, dtype).reshape(size, order="F" if fortran else "C").astype(np.float32)
    return np.asarray(values)


def _check_size(found: tuple[int, ...], size: tuple[int, int]) -> None:
    if tuple(found) != size:
        shown = " x ".join(str(length)[:20] for length in found[:4]) or "a single value"
        raise GroundTruthError(
            f"The ground truth is {shown} (height x width), but the picture is {size[0]} x {size[1]}.", remedy=_REMEDY
        )
