"""Reads a file that ``torch.save`` wrote, or says what it is instead. Only tensors and plain values are unpickled."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from service.image_header import looks_like, sniff

#: What `torch.load` may raise for a file that is not a checkpoint, depending on how far it gets: the old format is read
#: with `struct`, and arbitrary bytes can be valid pickle opcodes with invalid operands (``hello world``: KeyError).
NO_CHECKPOINT = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AssertionError,
    AttributeError,
    OSError,
)

#: How files of `torch.save` begin that are no ZIP archives (before PyTorch 1.6): a pickle of its magic number.
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

FOREIGN = "Weights only load failed"  # how PyTorch's message begins if a pickle holds more than tensors
AGAIN = "copy or download it again"
UNPACK = "unpack it, and give the checkpoint that is in it"

#: Formats of weights and of archives: offset, signature, what it is, and the remedy if it is one of its own.
SIGNATURES = (
    (0, b"version https://git-lfs", "a pointer of Git LFS", "run `git lfs pull` where it is from"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", ""),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
)


def read(path: Path, remedy: str, allowed: Sequence[type] = ()) -> Any:
    """The object in the file, with tensors on the CPU.

    Args:
        path: the file.
        remedy: what to give instead of a file that is not PyTorch's, as the end of a sentence.
        allowed: classes that may be unpickled besides tensors and plain values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not PyTorch's, is damaged, or holds other objects; the message says what it looks like.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}: {remedy}")
    try:
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they advise to let the file run code, or repeat the error
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except NO_CHECKPOINT as error:
        other = _other_format(path)
        if other is not None:
            what, own_remedy = other
            raise ValueError(f"{path} is not a PyTorch checkpoint: {what}: {own_remedy or remedy}") from error
        text = str(error).strip()
        if text.startswith(FOREIGN):
            found = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", text)
            held = f"an object of {found[1]}" if found else "objects"
            raise ValueError(
                f"{path} cannot be read (it holds {held} besides tensors and plain values): save only "
                "`model.state_dict()` in the program that wrote it, and give that to `python -m models.import_official`"
            ) from error
        why = first_line(error).partition(". ")[0].rstrip(".")
        raise ValueError(f"{path} is a damaged PyTorch checkpoint ({why}): {AGAIN}") from error


def first_line(error: Exception) -> str:
    """The first line of an error message, since PyTorch's messages can fill a screen."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _other_format(path: Path) -> tuple[str, str] | None:
    """What a file looks like that `torch.save` did not write, and its remedy if there is one; None if it wrote it."""
    with path.open("rb") as file:
        head = file.read(1024)
    if head.startswith(LEGACY):
        return None
    if head.startswith(b"PK\3\4"):
        return _other_archive(path, head)
    if not head.strip(b"\0"):
        return ("it holds only zeros" if head else "it is empty"), AGAIN
    for offset, signature, what, remedy in SIGNATURES:
        if head.startswith(signature, offset):
            return f"it looks like {what}", remedy
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        name = f"{path.stem}.pth"
        return "it looks like a safetensors file", (
            f"convert it with `torch.save(safetensors.torch.load_file('{path.name}'), '{name}')` and give {name}"
        )
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):  # its first fields: version, producer
        return "it looks like an ONNX graph", (
            "give the checkpoint that it was exported from, or make one of a model of ours with "
            "`python -m models.train.recover`"
        )
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "it looks like a pickle of another program than torch.save", (
            "save `model.state_dict()` with torch.save in the program that wrote it"
        )
    image = sniff(head)
    what = f"a {image} image" if image else looks_like(head).replace("no known image format", "no known format")
    page = what == "an HTML page"
    return f"it looks like {what}", "download the file itself, not the page that leads to it" if page else ""


def _other_archive(path: Path, head: bytes) -> tuple[str, str] | None:
    """`_other_format` of a ZIP archive, in which `torch.save` writes ``data.pkl`` first."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:  # cut short: its list of files is at the end
        return None if b"data.pkl" in head else ("it looks like a damaged ZIP archive", "")
    if "data.pkl" not in names:
        return "it looks like a ZIP archive of other files", UNPACK
    if "constants.pkl" in names:
        return "it looks like a TorchScript archive", (
            f"save its weights with `torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pth')`"
        )
    return None
