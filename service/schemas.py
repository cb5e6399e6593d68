"""The wire types of answers, from which the OpenAPI document is made. Times are in ms, depths in metres.

Those of experiments and their results are in `service.experiments.wire`; administration and the Open Inference Protocol
have theirs beside their routes.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.card import Metric, Network, Precision, TaskName, VariantName, Weights, Work

Probability = Annotated[float, Field(ge=0, le=1)]
#: Of an experiment; `service.experiments.declaration` says what each does.
Mode = Literal["split", "shadow", "paired"]


class _Wire(BaseModel):
    """Base of the wire types."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(BaseModel):
    """An error (RFC 9457, application/problem+json); some kinds have additional members."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable identifier of the error, for programs.")
    help: str = Field(description="What to do about it.")
    instance: str | None = None
    request_id: str | None = None


class ProblemKind(_Wire):
    """The meaning of a problem's `type`."""

    code: str
    status: int
    title: str
    help: str = Field(description="What usually helps; each problem document says what helps in its case.")


class ImageInfo(_Wire):
    """The properties of the uploaded image, and how it was converted."""

    format: Literal["JPEG", "PNG", "WEBP", "BMP", "GIF"]
    width: int = Field(description="Width of the upright image, pixels.")
    height: int = Field(description="Height of the upright image, pixels.")
    mode: str = Field(description="The file's pixel format, such as RGB, L, CMYK, P, I;16.")
    converted: str | None = Field(description="The conversion to RGB; null if none was needed.")
    exif_orientation: int = Field(ge=1, le=8, description="The EXIF tag; 1 if there is none.")
    exif_rotation: int = Field(description="Clockwise rotation that was applied, degrees.")
    exif_mirrored: bool = Field(description="Whether the image was mirrored left to right before the rotation.")
    exif_focal_35mm: int | None = Field(
        default=None, description="The EXIF tag FocalLengthIn35mmFilm, mm; null if there is none."
    )
    exif_cropped: bool = Field(
        default=False,
        description="EXIF states a different aspect ratio: the image was cropped after it was taken, or stitched.",
    )
    frames: int = Field(description="Number of frames in the file.")
    frames_dropped: int = Field(description="Number of frames that were ignored: all but the first.")
    reduction: int = Field(description="The image was decoded at 1/reduction of its size; above 1 for large JPEGs.")


class Timings(_Wire):
    """Time spent in each stage, milliseconds. `total` starts when the body is read and ends with the answer."""

    decode: float
    preprocess: float
    queue: float
    inference: float
    postprocess: float
    total: float


class ExperimentPart(_Wire):
    """The experiment and the arm that answered. `GET /experiments/{name}` describes it and its results."""

    name: str
    mode: Mode
    arm: str


class Run(_Wire):
    """What ran, and how: part of every answer."""

    model: str = Field(description="The model that ran; for the variant `full` of a binary model, its twin.")
    version: str
    variant: VariantName = Field(description="The variant that ran.")
    kernel: str = Field(description="Instruction set of the bit-packed kernel, or `onnxruntime` for float networks.")
    fallback: str | None = Field(default=None, description="Why a variant other than the requested one ran.")
    request_id: str
    batch_size: int = Field(description="Number of images in the batch, including this one.")
    timings_ms: Timings
    image: ImageInfo
    experiment: ExperimentPart | None = Field(
        default=None, description="The experiment that this answer is part of; null if there is none."
    )
    feedback_token: str | None = Field(
        default=None, description="Send it to /feedback together with the ground truth. Null in comparisons."
    )


class ClassPrediction(_Wire):
    """One class."""

    index: int = Field(description="Index in the network's output.")
    wnid: str = Field(description="WordNet id.")
    name: str
    probability: Probability


class ClassifyAnswer(Run):
    """The classes of one image, by falling probability."""

    predictions: list[ClassPrediction]
    uncertain: bool = Field(description="Whether the best probability is below `min_probability`.")
    min_probability: Probability


class RegionInfo(_Wire):
    """The region of the image that the network saw, in pixels of the upright image."""

    left: float
    top: float
    width: float
    height: float


class CropInfo(_Wire):
    """What was cropped at each side of the image, in pixels of the upright image."""

    left: int
    top: int
    right: int
    bottom: int


class NetworkInput(_Wire):
    """The size of the network's input, and the scale from the region to it."""

    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    scale_x: float = Field(description="Horizontal scale: input pixels per image pixel.")
    scale_y: float = Field(description="Vertical scale; differs if the region and the input differ in aspect ratio.")


class ValidInfo(_Wire):
    """The part of the map that has depth, in pixels of the map; all of it at the network's size."""

    left: int
    top: int
    width: int
    height: int


class FocalInfo(_Wire):
    """The focal length from which metric depth is computed."""

    fx_px: float = Field(description="Horizontal focal length, in pixels of the uploaded image.")
    assumed: bool = Field(description="True if it is the training camera's. Send `fx` of your camera for true metres.")
    fx_source: Literal["query", "exif", "assumed"] = Field(
        description="`query`: the request's `fx`; `exif`: the image's FocalLengthIn35mmFilm; `assumed`: the training "
        "camera's field of view."
    )
    reason: str = Field(description="Why this focal length was chosen, in words.")


class RowPercentiles(_Wire):
    """Depth along each row of the network's map, top first."""

    percentiles: list[float]
    values_m: list[list[float]] = Field(description="[row][percentile], metres.")


class DepthAnswer(Run):
    """The depth of one image, in figures; with `values=true`, also the map. The other formats are smaller."""

    unit: Literal["m"] = "m"
    width: int = Field(description="Width of the map at the requested size, pixels.")
    height: int = Field(description="Height of the map at the requested size, pixels.")
    valid: ValidInfo
    min_m: float
    median_m: float
    max_m: float
    rows: RowPercentiles
    region: RegionInfo
    cropped: CropInfo
    input: NetworkInput
    focal: FocalInfo
    depth_m: list[list[float | None]] | None = Field(
        default=None, description="With `values=true`: the map, [row][column], metres; null where there is no depth."
    )


class ClassifyList(_Wire):
    """The answers for the images of one request, in their order; a failed image has a problem instead."""

    request_id: str
    count: int
    results: list[ClassifyAnswer | Problem]


class DepthList(_Wire):
    """The answers for the images of one request, in their order; a failed image has a problem instead."""

    request_id: str
    count: int
    results: list[DepthAnswer | Problem]


class ComparedWeights(_Wire):
    """The size of the weights of both sides."""

    a_bytes: int = Field(description="In memory.")
    b_bytes: int = Field(description="In memory.")
    a_artefact_bytes: int
    b_artefact_bytes: int
    ratio: float = Field(description="b_bytes / a_bytes; above 1 if `a` is smaller.")


class Comparison(_Wire):
    """The answers of two variants for one image: the part that does not depend on the task."""

    request_id: str
    agree: bool
    order: list[Literal["a", "b"]] = Field(description="The order in which they ran; it is random.")
    speedup: float = Field(description="Inference time of `b` / inference time of `a`; above 1 if `a` is faster.")
    weights: ComparedWeights
    image: ImageInfo


class ClassifyComparison(Comparison):
    """Two variants on one image; they agree if their best class is the same."""

    a: ClassifyAnswer
    b: ClassifyAnswer


class DepthComparison(Comparison):
    """Two variants on one image; they agree if the depths of 90 % of the pixels are within a factor of 1.25."""

    a: DepthAnswer
    b: DepthAnswer
    within_1_25: float = Field(description="Fraction of pixels whose two depths are within a factor of 1.25.")
    abs_rel: float = Field(description="Mean of |a - b| / b.")


class FeedbackAnswer(_Wire):
    """The result of sending feedback."""

    status: Literal["stored", "repeated"] = Field(description="`repeated`: already stored, so nothing changed.")
    request_id: str = Field(description="Id of the request whose answer the feedback is about.")
    model: str
    version: str
    variant: VariantName
    correct: bool | None = Field(default=None, description="Classification: whether the best class is right.")
    correct_top5: bool | None = Field(default=None, description="Classification: whether one of the best five is.")
    abs_rel: float | None = Field(default=None, description="Depth: mean of |prediction - truth| / truth.")
    delta1: float | None = Field(default=None, description="Depth: share of points within a factor of 1.25.")


class VariantStatus(_Wire):
    """One variant of a model."""

    variant: VariantName
    ready: bool
    kernel: str | None = None
    reason: str | None = Field(default=None, description="Why it is not ready.")
    memory_bytes: dict[str, int] = Field(default_factory=dict, description="Weight bytes in memory by precision.")
    session_bytes: int | None = Field(default=None, description="Growth of the process's memory while loading.")


class ModelInfo(_Wire):
    """One model: its card, and its state."""

    name: str
    version: str
    task: TaskName
    precision: Precision
    default: bool = Field(description="Whether its task uses it when the request names no model.")
    labels: list[str] = Field(default_factory=list, description="Labels of this version, such as `stable`.")
    full: str | None = Field(description="Name of its full-precision twin.")
    variants: list[VariantStatus]
    network: Network
    input: dict[str, Any]
    classes: int | None = Field(description="Number of classes; null for depth.")
    weights: Weights
    work: Work
    stem_precision: str
    pointwise_precision: str
    metrics: list[Metric]
    training: dict[str, Any]
    limits: list[str]
    license: str


class BrokenModel(_Wire):
    """A model in the folder that cannot be served."""

    name: str
    problem: Problem


class ModelList(_Wire):
    """All models."""

    models: list[ModelInfo]
    broken: list[BrokenModel]


class Health(_Wire):
    """The process is alive."""

    status: Literal["ok"] = "ok"
    version: str
    revision: str = Field(default="unknown", description="Commit of the sources; `unknown` if nothing says it.")


class Readiness(_Wire):
    """Whether the service is ready to answer requests and, if not, why."""

    ready: bool
    state: Literal["starting", "ready", "draining", "failed"]
    reasons: list[str]
    models: dict[str, bool]
