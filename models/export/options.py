"""Command-line options of the programs that write a model: where it goes, what it replaces, how exact it is."""

from __future__ import annotations

import argparse
from pathlib import Path

from models.export.card import MODEL_FILE
from models.export.packed_ops import POINTWISE_PRECISIONS, STEM_PRECISIONS
from service.card import CARD_FILE


def add_model(parser: argparse.ArgumentParser, default_name: str) -> None:
    """Add ``--out``, ``--name``, ``--version``, ``--overwrite``, ``--stem`` and ``--pointwise``.

    Args:
        parser: the program's.
        default_name: the model's name without ``--name``, for the help.
    """
    parser.add_argument("--out", type=Path, required=True, help="folder of models; writes OUT/<name>/<version>/")
    parser.add_argument("--name", help=f"model name (default: {default_name})")
    parser.add_argument("--version", default="1", help="model version (default 1)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the model if OUT already has this name and version"
    )
    parser.add_argument(
        "--stem", choices=STEM_PRECISIONS, default="int16", help="precision of a binary network's first convolution"
    )
    parser.add_argument(
        "--pointwise",
        choices=POINTWISE_PRECISIONS,
        default="int8",
        help="precision of a binary network's real-valued 1x1 convolutions",
    )


def check_unused(out: Path, name: str, version: str, *, overwrite: bool) -> None:
    """Check that writing a model replaces no other one, which may be served and cannot be recovered.

    Raises:
        ValueError: there is one, and ``overwrite`` is not set.
    """
    folder = out / name / version
    if not overwrite and any((folder / file).exists() for file in (CARD_FILE, MODEL_FILE)):
        raise ValueError(
            f"{folder} already holds a model: add this one beside it with --version {_next_version(out / name)} or "
            "another --name, or replace it with --overwrite"
        )


def _next_version(folder: Path) -> int:
    return 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)
