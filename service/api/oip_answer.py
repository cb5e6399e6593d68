"""Responses of the Open Inference Protocol: a model's outputs as tensors, and tensors as a body."""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from service.api.oip_request import ENCODED, IMAGE, Parsed, RequestOutput, check_parameters
from service.card import Card
from service.errors import BadTensorError
from service.scheduler import Output
from service.tasks import CLASSIFY, DEPTH, ClassifyOptions

Floats = npt.NDArray[np.float32]
Datatype = Literal["FP32", "BYTES"]
_OF_OUTPUTS = ("binary_data", "classification")


@dataclass(frozen=True, slots=True)
class TensorKind:
    """A tensor as in the model's metadata; a length of -1 stands for the number of images."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OutputForm:
    """A requested output, and its form.

    Attributes:
        name: The output's name.
        binary: Whether its data follow the JSON document.
        classes: Number of best classes to return instead of the values; 0 for the values.
    """

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output: float32 values, or strings of the given shape in C order."""

    name: str
    shape: tuple[int, ...]
    values: Floats | list[bytes]
    binary: bool


def inputs_of(card: Card) -> list[TensorKind]:
    """The inputs of a model, of which a request sends exactly one."""
    return [
        TensorKind(IMAGE, "UINT8", (-1, card.input.height, card.input.width, 3)),
        TensorKind(ENCODED, "BYTES", (-1,)),
    ]


def outputs_of(card: Card) -> list[TensorKind]:
    """The outputs of a model."""
    if card.task == "classify":
        classes = len(card.classes)
        return [
            TensorKind("logits", "FP32", (-1, classes)),
            TensorKind("probabilities", "FP32", (-1, classes)),
            TensorKind("label", "BYTES", (-1,)),
        ]
    size = (-1, card.input.height, card.input.width)
    return [TensorKind("depth", "FP32", size), TensorKind("disparity", "FP32", size)]


def requested_outputs(parsed: Parsed, card: Card) -> list[OutputForm]:
    """The outputs that a request wants; all of them if it names none.

    Raises:
        BadTensorError: There is no such output, or one of its parameters has an invalid value.
    """
    names = [kind.name for kind in outputs_of(card)]
    all_binary = _flag(parsed.document.parameters, "binary_data_output", default=False)
    asked = parsed.document.outputs
    if not asked:
        return [OutputForm(name, all_binary) for name in names]
    found = [_form(output, names, all_binary=all_binary) for output in asked]
    if len({output.name for output in found}) != len(found):
        raise BadTensorError("An output is requested twice.", remedy="Name each output once.")
    return found


def _form(output: RequestOutput, names: Sequence[str], *, all_binary: bool) -> OutputForm:
    parameters = output.parameters or {}
    if output.name not in names:
        raise BadTensorError(
            f"The model has no output {output.name[:40]!r}.",
            remedy=f"It has {', '.join(names)}; leave out `outputs` to get all.",
        )
    check_parameters(parameters, _OF_OUTPUTS, of=f"the output {output.name}")
    classes = parameters.get("classification", 0)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 0:
        raise BadTensorError(f"The parameter classification of the output {output.name} is not a whole number.")
    if classes and output.name not in ("logits", "probabilities"):
        raise BadTensorError(f"The output {output.name} has no classes: leave out the parameter classification.")
    return OutputForm(output.name, _flag(parameters, "binary_data", default=all_binary), classes)


def _flag(parameters: Any, name: str, *, default: bool) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise BadTensorError(f"The parameter {name} is neither true nor false.")
    return value


def tensors(card: Card, rows: Sequence[Output], wanted: Sequence[OutputForm]) -> list[Tensor]:
    """Builds the requested outputs.

    Args:
        card: The card of the model that ran.
        rows: Its output for each image: float32 [classes] or [H, W].
        wanted: The requested outputs.

    Raises:
        BadOutputError: An output has the wrong shape or is not finite.
    """
    if card.task == "classify":
        return _classes(card, rows, wanted)
    for row in rows:
        DEPTH.check_output(row, card)
    assert card.depth is not None  # validated by the card
    depth_m: Floats = np.stack(rows).astype(np.float32, copy=False)
    made: dict[str, Floats] = {"depth": depth_m}
    if any(output.name == "disparity" for output in wanted):
        made["disparity"] = np.float32(card.depth.fx_px * card.depth.baseline_m) / depth_m  # pixels; paper's f B / d
    return [Tensor(output.name, made[output.name].shape, made[output.name], output.binary) for output in wanted]


def _classes(card: Card, rows: Sequence[Output], wanted: Sequence[OutputForm]) -> list[Tensor]:
    results = [CLASSIFY.postprocess(row, None, card, ClassifyOptions(top_k=1)) for row in rows]
    values: dict[str, Floats] = {
        "logits": np.stack(rows).astype(np.float32, copy=False),
        "probabilities": np.stack([result.probabilities for result in results]).astype(np.float32),
    }
    made = []
    for output in wanted:
        if output.name == "label":
            names = [result.predictions[0].name.encode() for result in results]
            made.append(Tensor(output.name, (len(rows),), names, output.binary))
        elif output.classes:
            count = min(output.classes, len(card.classes))
            best = [text for row in values[output.name] for text in _best(row, card, count)]
            made.append(Tensor(output.name, (len(rows), count), best, output.binary))
        else:
            made.append(Tensor(output.name, values[output.name].shape, values[output.name], output.binary))
    return made


def _best(row: Floats, card: Card, count: int) -> list[bytes]:
    """The best classes in the format of the classification extension, `value:index:name`, best first."""
    order = np.argsort(-row, kind="stable")[:count]
    return [f"{row[index]:f}:{index}:{card.classes[index].name}".encode() for index in order]


def encode(document: dict[str, Any], outputs: Sequence[Tensor]) -> tuple[bytes, int | None]:
    """Serialises a response.

    Args:
        document: Everything except the outputs.
        outputs: The outputs.

    Returns:
        The body, and the length of its JSON document if binary tensor data follow it, else None.
    """
    described = []
    tail = []
    for tensor in outputs:
        datatype: Datatype = "BYTES" if isinstance(tensor.values, list) else "FP32"
        entry: dict[str, Any] = {"name": tensor.name, "datatype": datatype, "shape": list(tensor.shape)}
        if tensor.binary:
            data = _raw(tensor.values)
            entry["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        elif isinstance(tensor.values, list):
            entry["data"] = [text.decode() for text in tensor.values]
        else:
            entry["data"] = tensor.values.reshape(math.prod(tensor.shape)).tolist()
        described.append(entry)
    head = json.dumps({**document, "outputs": described}, allow_nan=False, separators=(",", ":")).encode()
    return b"".join((head, *tail)), len(head) if tail else None


def _raw(values: Floats | list[bytes]) -> bytes:
    """A tensor's binary data: little-endian floats, or strings, each preceded by its length."""
    if isinstance(values, list):
        return b"".join(struct.pack("<I", len(text)) + text for text in values)
    return values.astype("<f4", copy=False).tobytes()
