"""The model card: a model's architecture, input, size, training and accuracy.

A model lives in `<zoo>/<name>/<version>/` as `model.onnx` and `card.yaml`. The exporter writes the card and the
service reads it. It is the only source of preprocessing, class names, accounting and accuracy gauges. The table in
docs/card.md is made from the fields here (`service.card_table`).
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from service.errors import CardError, ModelBrokenError
from service.onnx_file import NotOnnxError, has_external_data
from service.yaml_text import parse_yaml

CARD_FILE = "card.yaml"

TaskName = Literal["classify", "depth"]
Precision = Literal["binary", "full"]
VariantName = Literal["binary", "reference", "full"]

#: All variants, in the order in which users see them.
VARIANTS: tuple[VariantName, ...] = get_args(VariantName)

_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a field, for docs/card.md."""

    name: str


Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(gt=0), Unit("pixels")]
Metres = Annotated[float, Field(gt=0), Unit("metres")]
Bytes = Annotated[int, Field(ge=0), Unit("bytes")]
Rgb = Annotated[tuple[float, float, float], Unit("pixel value / 255")]


class _Part(BaseModel):
    """Base of the card's parts: immutable, and without unknown fields, so that a misspelt one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Network(_Part):
    """The architecture: enough to rebuild the network in PyTorch."""

    arch: Literal["resnet"] = Field(description="Family of architectures.")
    depth: Literal[18, 34, 50, 152] = Field(
        description="Number of layers with weights, by the family's convention. A depth network counts its encoder's."
    )
    structure: Literal["bireal", "res", "plain"] = Field(
        description="`bireal`: a shortcut around every 1-bit convolution. `res`: around every block, as in ResNet. "
        "`plain`: none."
    )
    method: str = Field(
        pattern="^[a-z][a-z0-9_]{0,31}$",  # any name: the graph says all that serving a new method needs
        description="How weights and activations are binarised: `bireal`, `binarynet`, `xnornet`, `abcnet` or another "
        "method's name. `none` for a full-precision model, and only for one.",
    )
    width: Annotated[float, Field(gt=0)] = Field(1.0, description="Factor on the family's numbers of channels.")


class InputSpec(_Part):
    """What the graph's input `image`, uint8 [N, height, width, 3] RGB, expects."""

    height: Pixels = Field(description="Rows of the graph's input.")
    width: Pixels = Field(description="Columns of the graph's input.")
    resize_shorter: Pixels | None = Field(
        None,
        description="Length to which the image's shorter side is scaled before the centre crop; at least `height` and "
        "`width`. Required for a classifier. Not allowed for depth, where a centre crop with `depth.aspect` is scaled "
        "to the input instead.",
    )
    mean: Rgb = Field(description="Mean of each channel, for documentation only: the graph itself normalises.")
    std: Rgb = Field(description="Standard deviation of each channel, for documentation only.")

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize_shorter is not None and self.resize_shorter < max(self.height, self.width):
            raise ValueError(
                f"resize_shorter {self.resize_shorter} is less than the crop {self.height} x {self.width}: "
                "the crop would extend beyond the image"
            )
        return self


class ClassLabel(_Part):
    """One class: its WordNet id (the name of its folder in data sets) and its readable name."""

    wnid: Annotated[str, Field(min_length=1)] = Field(
        description="Id of the class, unique on the card: the WordNet id, or another name of its folder in data sets."
    )
    name: Annotated[str, Field(min_length=1)] = Field(description="Readable name, used in answers.")


class DepthSpec(_Part):
    """The camera that a depth network was trained for, and its range."""

    max_m: Metres = Field(description="Largest depth that the network outputs.")
    min_m: Metres = Field(description="Smallest depth that the network outputs; less than `max_m`.")
    fx_px: Annotated[float, Field(gt=0), Unit("pixels")] = Field(
        description="Horizontal focal length for which the output is metric, at the network's width: KITTI's 721.5 at "
        "a width of 1242 is 353.2 at 608."
    )
    baseline_m: Metres = Field(description="Baseline of the stereo cameras of the training data.")
    aspect: Annotated[float, Field(gt=0)] = Field(
        description="Width / height of the image region that is scaled to the network's input. The scaling is "
        "anisotropic if it differs from `input.width` / `input.height`."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_m >= self.max_m:
            raise ValueError(f"min_m {self.min_m:g} must be less than max_m {self.max_m:g}")
        return self


class Weights(_Part):
    """The number and size of the model's parameters."""

    binary_params: Count = Field(description="Number of 1-bit weights.")
    real_params: Count = Field(description="Number of real-valued parameters.")
    binary_bytes: Bytes = Field(description="Size of the 1-bit weights in memory at run time, one copy.")
    real_bytes: Bytes = Field(description="Size of the real-valued parameters in memory at run time, one copy.")
    artefact_bytes: Annotated[int, Field(gt=0), Unit("bytes")] = Field(description="Size of the model's file.")


class Work(_Part):
    """Arithmetic of one image: `bops` counts a real multiply-accumulate as 64 binary ones (paper, Table 5)."""

    binary_macs: Count = Field(description="1-bit multiply-accumulates of one image.")
    real_macs: Count = Field(description="Real-valued multiply-accumulates of one image.")
    bops: Count = Field(description="`binary_macs` + 64 `real_macs`, as in the paper's Table 5.")


class Training(_Part):
    """How the weights were trained: enough to reproduce them, and to know under which terms they may be used."""

    data: str = Field(description="The training data, and what was held out.")
    terms: str = Field(description="The terms of the training data.")
    recipe: str = Field(description="Name of the recipe in `models/train/recipes`, or of another origin.")
    source: str = Field(
        "", description="Where the hyper-parameters come from, and each departure from what they follow."
    )
    command: str = Field(description="The command that trained or imported the weights.")
    wall_time_s: Annotated[float, Field(ge=0), Unit("seconds")] = Field(description="Duration of the training.")
    hardware: str = Field(description="The machine that it ran on.")
    seed: int = Field(description="Seed of the random numbers.")
    epochs: Annotated[float, Field(gt=0)] | None = Field(None, description="Passes over the training data.")
    steps: Positive | None = Field(None, description="Steps of the optimiser.")
    notes: str = Field("", description="Anything else that a reader should know.")


class Metric(_Part):
    """The scores of one variant on a named data set."""

    dataset: Annotated[str, Field(min_length=1)] = Field(description="Data set and split, such as `tiny100a-dev`.")
    variant: VariantName = Field(
        description="The evaluated variant: `binary` or `reference` of a binary model, `full` of a full-precision one."
    )
    n: Positive = Field(description="Number of images.")
    values: dict[str, float] = Field(
        description="Scores by name, fractions 0..1 and lengths in metres, such as `top1` or `abs_rel_80m`. Names are "
        "lower case letters, digits and underscores. Each becomes a series of `bireal_model_accuracy`."
    )

    @field_validator("values")
    @classmethod
    def _named_values(cls, values: dict[str, float]) -> dict[str, float]:
        for name in values:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"metric {name!r} must be lower case letters, digits and underscores")
        return values


class Card(_Part):
    """A model card."""

    schema_version: Literal[1] = Field(description="Version of this format.")
    name: Slug = Field(
        description="Name of the model; the name of the outer folder. Up to 64 lower case letters, digits and `._-`."
    )
    version: Slug = Field(
        description="Version of the model; the name of the inner folder. Quote a number, because it must be text."
    )
    task: TaskName = Field(description="What the model answers.")
    precision: Precision = Field(
        description="`binary`: served as `binary` and `reference`. `full`: served as `full`, in float32."
    )
    full: Slug | None = Field(
        None, description="Name of the full-precision twin. Required for a binary model, not allowed for another."
    )
    network: Network = Field(description="The architecture.")
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        "model.onnx", description="Name of the model's file, next to the card."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="Checksum of that file, 64 hexadecimal digits; checked whenever the model is loaded."
    )
    input: InputSpec = Field(description="How an image becomes the graph's input.")
    classes: tuple[ClassLabel, ...] = Field(
        (), description="The classes in the order of the outputs. Required for a classifier, not allowed for depth."
    )
    depth: DepthSpec | None = Field(
        None, description="Camera and range. Required for a depth model, not allowed for a classifier."
    )
    weights: Weights = Field(description="Number and size of the parameters.")
    work: Work = Field(description="Arithmetic of one image.")
    stem_precision: str = Field(
        description="Arithmetic of the first convolution: `int16`, `int8` or `float32` in models of `models.export`."
    )
    pointwise_precision: str = Field(
        "float32",
        description="Arithmetic of the real-valued 1x1 convolutions in a binary network: `int8` or `float32`.",
    )
    training: Training = Field(description="Where the weights come from.")
    metrics: tuple[Metric, ...] = Field((), description="Measured scores.")
    limits: tuple[str, ...] = Field((), description="What the model is not suitable for, one sentence each.")
    license: Annotated[str, Field(min_length=1)] = Field(description="The terms under which the weights may be used.")

    _directory: Path | None = PrivateAttr(default=None)

    @cached_property
    def wnids(self) -> tuple[str, ...]:
        """The classes' WordNet ids, in the order of the outputs."""
        return tuple(label.wnid for label in self.classes)

    @model_validator(mode="after")
    def _task_parts(self) -> Self:
        if self.task == "classify":
            if not self.classes:
                raise ValueError("classes: a classifier must list its classes, in the order of its outputs")
            if self.input.resize_shorter is None:
                raise ValueError("input.resize_shorter: required for a classifier, pixels")
            if self.depth is not None:
                raise ValueError("depth: allowed only for a depth model")
            wnids = [label.wnid for label in self.classes]
            if len(set(wnids)) != len(wnids):
                raise ValueError("classes: a wnid is listed twice")
        else:
            if self.depth is None:
                raise ValueError("depth: a depth model must state its camera and range")
            if self.input.resize_shorter is not None or self.classes:
                raise ValueError("input.resize_shorter and classes: allowed only for a classifier")
        return self

    @model_validator(mode="after")
    def _precision_parts(self) -> Self:
        if self.precision == "binary":
            if self.full is None:
                raise ValueError("full: a binary model must name its full-precision twin")
            if self.network.method == "none":
                raise ValueError("network.method: a binary model must name its binarisation method")
        else:
            if self.full is not None:
                raise ValueError("full: allowed only for a binary model")
            if self.network.method != "none":
                raise ValueError("network.method: must be `none` for a full-precision model")
        for metric in self.metrics:
            if metric.variant not in self.variants:
                raise ValueError(f"metrics: the model has no variant {metric.variant!r}; it has {self.variants}")
        return self

    @property
    def variants(self) -> tuple[VariantName, ...]:
        """The variants that run from this model's own file; a binary model's `full` is its twin."""
        return ("binary", "reference") if self.precision == "binary" else ("full",)

    def weight_bytes(self, variant: VariantName) -> dict[Literal["binary", "real"], int]:
        """Bytes of a variant's weights in memory, one copy, by precision; `reference` keeps each as a float32."""
        weights = self.weights
        if variant == "reference":
            return {"binary": 0, "real": _FLOAT32_BYTES * (weights.binary_params + weights.real_params)}
        return {"binary": weights.binary_bytes, "real": weights.real_bytes}

    @property
    def directory(self) -> Path:
        """The folder that contains the card.

        Raises:
            CardError: The card was created in memory and not yet written.
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
            CardError: It is missing, not YAML, or not valid. The message names the file, the field and the remedy.
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
            raise CardError(where, f"{CARD_FILE} contains a {type(content).__name__}, not a mapping of fields.")
        try:
            card = cls.model_validate(content)
        except ValidationError as error:
            raise CardError(where, f"{CARD_FILE} is not valid: {_field_messages(error)}.") from error
        card._directory = directory  # noqa: SLF001  a card of our own class
        return card

    def write(self, directory: Path) -> Self:
        """Writes `card.yaml` into a model's folder, and creates the folder if it does not exist.

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
        """Checks the model's file against the card's checksum, and that the file contains the whole network.

        Raises:
            ModelBrokenError: The file is missing, differs or is not an ONNX file, or some weights are in other files.
        """
        try:
            with self.path.open("rb") as stream:
                actual = hashlib.file_digest(stream, "sha256").hexdigest()
            if actual != self.sha256:
                raise ModelBrokenError(
                    self.name,
                    f"{self.file} has sha256 {actual}, but its card says {self.sha256}.",
                    remedy="The file was changed or truncated: copy or export the model again.",
                )
            whole = not has_external_data(self.path)
        except OSError as error:
            raise ModelBrokenError(self.name, f"{self.file} cannot be read: {_reason(error)}.") from error
        except NotOnnxError as error:
            raise ModelBrokenError(self.name, f"{self.file} is not an ONNX file: {error}.") from error
        if not whole:
            raise ModelBrokenError(
                self.name,
                f"{self.file} has weights in other files, which the card's checksum does not cover.",
                remedy="Save one file (onnx.save with save_as_external_data=False) and put its sha256 into the card.",
            )


def version_key(version: str) -> list[tuple[int, int | str]]:
    """Sort key for versions in natural order: 2 before 10, 1.9 before 1.10."""
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", version) if part]


def _reason(error: OSError | UnicodeDecodeError) -> str:
    """Why a file cannot be read, without its path: clients see this, and need not know where models are stored."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def _field_messages(error: ValidationError) -> str:
    """Formats pydantic's findings on one line: "field: message; field: message"."""
    parts = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        field = ".".join(str(step) for step in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        parts.append(f"{field}: {message}" if field else message)
    return "; ".join(parts)
