"""The model card: what a model is, how to feed it, what it weighs, how it was trained and what it scores.

A model lives in `<zoo>/<name>/<version>/` as `model.onnx` and `card.yaml`. The exporter writes the card and the
service reads it: preprocessing, class names, accounting and accuracy gauges all come from here and nowhere else.
"""

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from service.errors import CardError, ModelBrokenError
from service.onnx_file import has_external_data
from service.yaml_text import parse_yaml

CARD_FILE = "card.yaml"

TaskName = Literal["classify", "depth"]
Precision = Literal["binary", "full"]
VariantName = Literal["binary", "reference", "full"]

#: Every variant that exists, in the order in which they are listed to users.
VARIANTS: tuple[VariantName, ...] = ("binary", "reference", "full")

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rgb = tuple[float, float, float]


class _Part(BaseModel):
    """Base of the card's parts: immutable, unknown fields refused, so that a misspelt one is not lost."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Network(_Part):
    """The architecture: enough to rebuild the network in PyTorch.

    Attributes:
        arch: Family.
        depth: Layers with weights, as the family counts them.
        structure: `bireal` (a shortcut around every 1-bit convolution), `res` (around every pair) or `plain` (none).
        method: How weights and activations are binarised; `none` for a full-precision network.
        width: Multiple of the family's channel counts.
    """

    arch: Literal["resnet"]
    depth: Literal[18, 34, 50, 152]
    structure: Literal["bireal", "res", "plain"]
    method: Literal["bireal", "binarynet", "xnornet", "abcnet", "none"]
    width: Annotated[float, Field(gt=0)] = 1.0


class InputSpec(_Part):
    """What the graph's input `image`, uint8 [N, height, width, 3] RGB, expects.

    Attributes:
        height: Rows, pixels.
        width: Columns, pixels.
        resize_shorter: Length to which the image's shorter side is scaled before the centre crop, pixels; None for
            depth, where a centre crop of the card's aspect is scaled to height x width instead.
        mean: Mean of each channel, 0..1 units. Documentation only: normalisation is inside the graph.
        std: Standard deviation of each channel, 0..1 units. Documentation only.
    """

    height: Positive
    width: Positive
    resize_shorter: Positive | None = None
    mean: Rgb
    std: Rgb

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize_shorter is not None and self.resize_shorter < max(self.height, self.width):
            raise ValueError(
                f"resize_shorter {self.resize_shorter} is less than the crop {self.height} x {self.width}: "
                "the crop would reach outside the image"
            )
        return self


class ClassLabel(_Part):
    """One class: its WordNet id (the folder's name in data sets) and its name for people."""

    wnid: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]


class DepthSpec(_Part):
    """The camera that a depth network was trained for.

    Attributes:
        max_m: Largest depth that the network states, metres.
        min_m: Smallest depth that the network states, metres.
        fx_px: Horizontal focal length for which the output is metric, in pixels of the NETWORK's width (KITTI's
            721.5 px at 1242 px is 353.2 px at 608 px).
        baseline_m: Distance between the cameras of the training rig, metres.
        aspect: Width / height of the region of a photo that is scaled to the network's input; the scaling is
            anisotropic when it differs from input.width / input.height.
    """

    max_m: Annotated[float, Field(gt=0)]
    min_m: Annotated[float, Field(gt=0)]
    fx_px: Annotated[float, Field(gt=0)]
    baseline_m: Annotated[float, Field(gt=0)]
    aspect: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_m >= self.max_m:
            raise ValueError(f"min_m {self.min_m:g} must be less than max_m {self.max_m:g}")
        return self


class Weights(_Part):
    """What the model weighs.

    Attributes:
        binary_params: Number of 1-bit weights.
        real_params: Number of real-valued parameters.
        binary_bytes: Bytes that the 1-bit weights take in memory when they run.
        real_bytes: Bytes that the real-valued parameters take in memory when they run.
        artefact_bytes: Size of the model's file.
    """

    binary_params: Count
    real_params: Count
    binary_bytes: Count
    real_bytes: Count
    artefact_bytes: Positive


class Work(_Part):
    """Arithmetic of one image: `bops` counts a real multiply-accumulate as 64 binary ones (paper, Table 5)."""

    binary_macs: Count
    real_macs: Count
    bops: Count


class Training(_Part):
    """How the weights were made: enough to make them again and to know what may be done with them."""

    data: str
    terms: str
    recipe: str
    command: str
    wall_time_s: Annotated[float, Field(ge=0)]
    hardware: str
    seed: int
    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = None
    notes: str = ""


class Metric(_Part):
    """What one variant of the model scores on a named data set; fractions are 0..1, lengths in metres.

    Attributes:
        dataset: Name and split, such as `tiny100a-dev`.
        variant: The variant that was evaluated.
        n: Number of images.
        values: Score by name: `top1`, `top5`; or `abs_rel_80m`, `delta1_50m`, ...
    """

    dataset: Annotated[str, Field(min_length=1)]
    variant: VariantName
    n: Positive
    values: dict[str, float]

    @field_validator("values")
    @classmethod
    def _named_values(cls, values: dict[str, float]) -> dict[str, float]:
        for name in values:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"metric {name!r} must be lower case letters, digits and underscores")
        return values


class Card(_Part):
    """A model card; see the parts for what the fields mean.

    Attributes:
        full: Name of the full-precision twin; required for a binary model, absent for a full-precision one.
        file: Name of the model's file, beside the card.
        sha256: Of that file, hexadecimal.
        stem_precision: How the first convolution computes: `float32`, `int16`, ...
        pointwise_precision: How the real-valued 1x1 convolutions inside a binary network compute: `float32` or `int8`.
        limits: What the model is not good for, one sentence each.
        license: Under which terms the weights may be used.
    """

    schema_version: Literal[1]
    name: Slug
    version: Slug
    task: TaskName
    precision: Precision
    full: Slug | None = None
    network: Network
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "model.onnx"
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    input: InputSpec
    classes: tuple[ClassLabel, ...] = ()
    depth: DepthSpec | None = None
    weights: Weights
    work: Work
    stem_precision: str
    pointwise_precision: str = "float32"
    training: Training
    metrics: tuple[Metric, ...] = ()
    limits: tuple[str, ...] = ()
    license: Annotated[str, Field(min_length=1)]

    _directory: Path | None = PrivateAttr(default=None)

    @cached_property
    def wnids(self) -> tuple[str, ...]:
        """The classes' WordNet ids, in the order of the outputs."""
        return tuple(label.wnid for label in self.classes)

    @model_validator(mode="after")
    def _task_parts(self) -> Self:
        if self.task == "classify":
            if not self.classes:
                raise ValueError("classes: a classifier lists its classes, in the order of its outputs")
            if self.input.resize_shorter is None:
                raise ValueError("input.resize_shorter: a classifier states it, pixels")
            if self.depth is not None:
                raise ValueError("depth: only a depth model has it")
            wnids = [label.wnid for label in self.classes]
            if len(set(wnids)) != len(wnids):
                raise ValueError("classes: a wnid is listed twice")
        else:
            if self.depth is None:
                raise ValueError("depth: a depth model states its camera and range")
            if self.input.resize_shorter is not None or self.classes:
                raise ValueError("input.resize_shorter and classes: only a classifier has them")
        return self

    @model_validator(mode="after")
    def _precision_parts(self) -> Self:
        if self.precision == "binary":
            if self.full is None:
                raise ValueError("full: a binary model names its full-precision twin")
            if self.network.method == "none":
                raise ValueError("network.method: a binary model names its binarisation")
        else:
            if self.full is not None:
                raise ValueError("full: only a binary model names a twin")
            if self.network.method != "none":
                raise ValueError("network.method: a full-precision model has none")
        for metric in self.metrics:
            if metric.variant not in self.variants:
                raise ValueError(f"metrics: the model has no variant {metric.variant!r}; it has {self.variants}")
        return self

    @property
    def variants(self) -> tuple[VariantName, ...]:
        """The variants that this model's own file runs as; a binary model's `full` is its twin's."""
        return ("binary", "reference") if self.precision == "binary" else ("full",)

    @property
    def directory(self) -> Path:
        """The folder that the card was loaded from.

        Raises:
            CardError: The card was made in memory and not yet written.
        """
        if self._directory is None:
            raise CardError(self.name, "the card was not loaded from a folder.", remedy="Use Card.load or Card.write.")
        return self._directory

    @property
    def path(self) -> Path:
        """The model's file."""
        return self.directory / self.file

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Reads `card.yaml` from a model's folder.

        Args:
            directory: `<zoo>/<name>/<version>`.

        Returns:
            The card, which remembers the folder.

        Raises:
            CardError: It is missing, not YAML, or not valid; the message names file, field and remedy.
        """
        file = directory / CARD_FILE
        where = f"{directory.parent.name}/{directory.name}"
        try:
            content = parse_yaml(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise CardError(where, f"{CARD_FILE} cannot be read: {_reason(error)}.") from error
        except yaml.YAMLError as error:
            raise CardError(where, f"{CARD_FILE} is not YAML: {error}.") from error
        if not isinstance(content, dict):
            raise CardError(where, f"{CARD_FILE} holds {type(content).__name__}, not a mapping of fields.")
        try:
            card = cls.model_validate(content)
        except ValidationError as error:
            raise CardError(where, f"{CARD_FILE} is not valid: {_field_messages(error)}.") from error
        card._directory = directory  # noqa: SLF001  a card of our own class
        return card

    def write(self, directory: Path) -> Self:
        """Writes `card.yaml` into a model's folder, which is made if need be.

        Returns:
            The same card, which remembers the folder.
        """
        directory.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
        (directory / CARD_FILE).write_text(text, encoding="utf-8")
        card = self.model_copy()
        card._directory = directory  # noqa: SLF001  a card of our own class
        return card

    def verify_file(self) -> None:
        """Compares the model's file with the card's checksum, and looks whether the file is all of the network.

        Raises:
            ModelBrokenError: The file is missing or differs, or some of its weights lie in other files.
        """
        try:
            with self.path.open("rb") as stream:
                actual = hashlib.file_digest(stream, "sha256").hexdigest()
            whole = not has_external_data(self.path)
        except OSError as error:
            raise ModelBrokenError(self.name, f"{self.file} cannot be read: {_reason(error)}.") from error
        if actual != self.sha256:
            raise ModelBrokenError(
                self.name,
                f"{self.file} has sha256 {actual}, its card says {self.sha256}.",
                remedy="The file was changed or cut short: copy or export the model again.",
            )
        if not whole:
            raise ModelBrokenError(
                self.name,
                f"{self.file} has weights in other files, which the checksum of its card does not cover.",
                remedy="Save all in one file (onnx.save with save_as_external_data=False), and its sha256 in the card.",
            )


def _reason(error: OSError | UnicodeDecodeError) -> str:
    """Why a file cannot be read, without its path: clients are told, and need not know where models lie."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def _field_messages(error: ValidationError) -> str:
    """Puts pydantic's findings into one line: "field: message; field: message"."""
    parts = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        field = ".".join(str(step) for step in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        parts.append(f"{field}: {message}" if field else message)
    return "; ".join(parts)
