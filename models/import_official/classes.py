"""Class names of an imported classifier, from a file or generic."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from models.data.folder import ClassName

WNID = re.compile(r"n\d{8}")


def generic_classes(count: int) -> tuple[ClassName, ...]:
    """Numbered class names, for a network without a class list."""
    return tuple(ClassName(f"class{index:04d}", f"class {index}") for index in range(count))


def read_class_file(path: Path, count: int) -> tuple[ClassName, ...]:
    """Read the classes in the order of the network's outputs.

    Three formats are supported: a JSON list of {index, wnid, name}, the common JSON object {"0": [wnid, name], ...},
    and text with one class per line, ``wnid name`` (separated by spaces or a tab) or just ``name``.

    Args:
        path: the file.
        count: number of outputs of the network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8, has none of these formats, or lists another number of classes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no class list at {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start}: 0x{error.object[error.start]:02x}): convert it, for example "
            f"with `iconv -f latin1 -t utf-8 {path.name}`"
        ) from error
    if text.lstrip()[:1] in ("[", "{"):
        try:
            classes = _from_json(json.loads(text))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(
                f'{path}: expected a JSON list of {{"index", "wnid", "name"}} or an object of "index": [wnid, name]'
            ) from error
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        classes = [_from_line(index, line) for index, line in enumerate(lines)]
    if len(classes) != count:
        raise ValueError(f"{path} lists {len(classes)} classes, but the network has {count} outputs")
    return tuple(classes)


def _from_json(document: Any) -> list[ClassName]:
    if isinstance(document, dict):
        entries = [(int(index), str(pair[0]), str(pair[1])) for index, pair in document.items()]
    else:
        entries = [(int(e.get("index", i)), str(e["wnid"]), str(e["name"])) for i, e in enumerate(document)]
    entries.sort()
    if [index for index, _, _ in entries] != list(range(len(entries))):
        raise ValueError("the indices are not 0, 1, 2, ...")
    return [ClassName(wnid, _first_synonym(name)) for _, wnid, name in entries]


def _from_line(index: int, line: str) -> ClassName:
    first, *rest = line.split(maxsplit=1)  # at any whitespace: lists of wnids mostly use tabs
    if WNID.fullmatch(first) and rest:
        return ClassName(first, _first_synonym(rest[0]))
    return ClassName(f"class{index:04d}", _first_synonym(line))


def _first_synonym(name: str) -> str:
    return name.split(",")[0].replace("_", " ").strip()
