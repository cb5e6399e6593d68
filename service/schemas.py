"""The wire types of every answer; the OpenAPI document is made from them. Times are in ms, depths in metres."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.card import Metric, Network, Precision, TaskName, VariantName, Weights, Work

Probability = Annotated[float, Field(ge=0, le=1)]


class _Wire(BaseModel):
    """Base of the wire types."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(BaseModel):
    """An error (RFC 9457, application/problem+json); some kinds have further members."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable name of the error, for programs.")
    help: str = Field(description="What to do about it.")
    instance: str | None = None
    request_id: str | None = None


class ProblemKind(_Wire):
    """What a problem's `type` stands for."""

    code: str
    status: int
    title: str
    help: str = Field(description="What usually helps; a problem says what helps in its case.")


class ImageInfo(_Wire):
    """What the upload was and what was done to it."""

    format: Literal["JPEG", "PNG", "WEBP", "BMP", "GIF"]
    width: int = Field(description="Of the upright picture, pixels.")
    height: int = Field(description="Of the upright picture, pixels.")
    mode: str = Field(description="The file's pixel format, such as RGB, L, CMYK, P, I;16.")
    converted: str | None = Field(description="What was done to get RGB; null when nothing was.")
    exif_orientation: int = Field(ge=1, le=8, description="The EXIF tag; 1 where there is none.")
    exif_rotation: int = Field(description="Clockwise rotation that was applied, degrees.")
    exif_mirrored: bool = Field(description="Whether it was mirrored left to right before the rotation.")
    exif_focal_35mm: int | None = Field(
        default=None, description="FocalLengthIn35mmFilm, mm; null where EXIF has none."
    )
    exif_cropped: bool = Field(
        default=False, description="EXIF states a size of another aspect: cut after it was taken, or stitched."
    )
    frames: int = Field(description="Frames in the file.")
    frames_dropped: int = Field(description="Frames that were not looked at: all but the first.")
    reduction: int = Field(description="A large JPEG is decoded at 1/reduction of its size.")


class Timings(_Wire):
    """Time spent in each stage, milliseconds. `total` is from the whole body read to the answer ready."""

    decode: float
    preprocess: float
    queue: float
    inference: float
    postprocess: float
    total: float


class ExperimentPart(_Wire):
    """Which arm of which experiment answered: `GET /experiments/{name}` says what it is and what it found."""

    name: str
    mode: Literal["split", "shadow", "paired"]
    arm: str


class Run(_Wire):
    """What answered, and how: part of every answer."""

    model: str = Field(description="The model that ran; for `full` of a binary model, its full-precision twin.")
    version: str
    variant: VariantName = Field(description="The variant that ran.")
    kernel: str = Field(description="Instruction set of the bit-packed kernel, or `onnxruntime` for float networks.")
    fallback: str | None = Field(default=None, description="Why another variant than the one asked for ran.")
    request_id: str
    batch_size: int = Field(description="Images that were run together with this one, itself included.")
    timings_ms: Timings
    image: ImageInfo
    experiment: ExperimentPart | None = Field(default=None, description="Null where the answer is part of none.")
    feedback_token: str | None = Field(
        default=None, description="To be sent to /feedback with the truth. Null in comparisons."
    )


class ClassPrediction(_Wire):
    """One class."""

    index: int = Field(description="Position in the network's output.")
    wnid: str = Field(description="WordNet id.")
    name: str
    probability: Probability


class ClassifyAnswer(Run):
    """The classes of one image, by falling probability."""

    predictions: list[ClassPrediction]
    uncertain: bool = Field(description="Whether the best probability is below `min_probability`.")
    min_probability: Probability


class RegionInfo(_Wire):
    """The part of the uploaded picture that the network saw, pixels of the upright picture."""

    left: float
    top: float
    width: float
    height: float


class CropInfo(_Wire):
    """What was cut from the uploaded picture at each side, pixels of the upright picture."""

    left: int
    top: int
    right: int
    bottom: int


class NetworkInput(_Wire):
    """The size at which the network saw the region, and how it was scaled to it."""

    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    scale_x: float = Field(description="Pixels of the network for each pixel of the picture, horizontally.")
    scale_y: float = Field(description="Vertically: another one where the region's aspect is not the network's.")


class ValidInfo(_Wire):
    """Where the map has depth, pixels of the map: all of it at the network's size."""

    left: int
    top: int
    width: int
    height: int


class FocalInfo(_Wire):
    """The focal length on which metric depth rests."""

    fx_px: float = Field(description="Horizontal, pixels of the uploaded picture.")
    assumed: bool = Field(description="True: the training camera's. Send `fx` for metres of your own camera.")
    fx_source: Literal["query", "exif", "assumed"] = Field(
        description="`query`: the request's `fx`; `exif`: the picture's FocalLengthIn35mmFilm; `assumed`: the training "
        "camera's field of view."
    )
    reason: str = Field(description="Why that one, for people.")


class RowPercentiles(_Wire):
    """Depth along each row of the network's map, top first."""

    percentiles: list[float]
    values_m: list[list[float]] = Field(description="[row][percentile], metres.")


class DepthAnswer(Run):
    """The depth of one image, in figures; with `values=true` the map too. The other formats are smaller."""

    unit: Literal["m"] = "m"
    width: int = Field(description="Of the map at the size that was asked for, pixels.")
    height: int = Field(description="Of the map at the size that was asked for, pixels.")
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
    """Answers to the images of one request, in their order; a problem stands where one failed."""

    request_id: str
    count: int
    results: list[ClassifyAnswer | Problem]


class DepthList(_Wire):
    """Answers to the images of one request, in their order; a problem stands where one failed."""

    request_id: str
    count: int
    results: list[DepthAnswer | Problem]


class ComparedWeights(_Wire):
    """What the weights of the two sides take."""

    a_bytes: int = Field(description="In memory.")
    b_bytes: int = Field(description="In memory.")
    a_artefact_bytes: int
    b_artefact_bytes: int
    ratio: float = Field(description="b_bytes / a_bytes: above 1 where `a` is smaller.")


class Comparison(_Wire):
    """What two variants said of one decoded image: the part that does not depend on the task."""

    request_id: str
    agree: bool
    order: list[Literal["a", "b"]] = Field(description="In which order they ran: it is random.")
    speedup: float = Field(description="Inference time of b / that of a: above 1 where `a` is faster.")
    weights: ComparedWeights
    image: ImageInfo


class ClassifyComparison(Comparison):
    """Two variants on one image; they agree when their best class is the same."""

    a: ClassifyAnswer
    b: ClassifyAnswer


class DepthComparison(Comparison):
    """Two variants on one image; they agree when 90 % of pixels are within a factor of 1.25."""

    a: DepthAnswer
    b: DepthAnswer
    within_1_25: float = Field(description="Fraction of pixels whose two depths are within a factor of 1.25.")
    abs_rel: float = Field(description="Mean of |a - b| / b.")


class FeedbackAnswer(_Wire):
    """What became of feedback."""

    status: Literal["stored", "repeated"] = Field(description="`repeated`: the same was said before; nothing changed.")
    request_id: str = Field(description="Of the request whose answer was judged.")
    model: str
    version: str
    variant: VariantName
    correct: bool | None = Field(default=None, description="Classification: whether the best class was right.")
    correct_top5: bool | None = Field(default=None, description="Classification: whether one of the best five was.")
    abs_rel: float | None = Field(default=None, description="Depth: mean of |prediction - truth| / truth.")
    delta1: float | None = Field(default=None, description="Depth: share of points within a factor of 1.25.")


class VariantStatus(_Wire):
    """One variant of a model."""

    variant: VariantName
    ready: bool
    kernel: str | None = None
    reason: str | None = Field(default=None, description="Why it is not ready, or what runs in its place.")
    memory_bytes: dict[str, int] = Field(default_factory=dict, description="Weight bytes in memory by precision.")
    session_bytes: int | None = Field(default=None, description="Growth of the process's memory by loading it.")


class ModelInfo(_Wire):
    """One model, from its card, and its state."""

    name: str
    version: str
    task: TaskName
    precision: Precision
    default: bool = Field(description="Whether its task uses it when no model is named.")
    labels: list[str] = Field(default_factory=list, description="That stand for this version, such as `stable`.")
    full: str | None = Field(description="Its full-precision twin.")
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
    """A model that is in the folder and cannot be served."""

    name: str
    problem: Problem


class ModelList(_Wire):
    """Every model."""

    models: list[ModelInfo]
    broken: list[BrokenModel]


class Health(_Wire):
    """The process lives."""

    status: Literal["ok"] = "ok"
    version: str


class Readiness(_Wire):
    """Whether requests are answered, and, if not, what is missing."""

    ready: bool
    state: Literal["starting", "ready", "draining", "failed"]
    reasons: list[str]
    models: dict[str, bool]
