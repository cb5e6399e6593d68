"""Triton's extensions `model_configuration` and `statistics` of the Open Inference Protocol, in its JSON shapes.

Both have only what this service knows: a member that Triton has and this service does not is left out, not guessed.
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from service.api.oip_answer import TensorKind, inputs_of, outputs_of
from service.api.openapi import oip_responses
from service.api.services import Services, ServicesOf
from service.metrics.totals import Totals
from service.registry import Entry

router = APIRouter(prefix="/v2/models", tags=["open inference protocol"])

EXTENSIONS = ("model_configuration", "statistics")

_Name = Annotated[str, Path(description="Of a model; GET /models lists them.", max_length=200)]
_Version = Annotated[str, Path(description="A version of the model, or a label such as `stable`.", max_length=200)]
_TYPES = {"UINT8": "TYPE_UINT8", "BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}
_STATUSES = (404, 422, 503)


class ConfigTensor(BaseModel):
    """A tensor without its first dimension, the number of images."""

    name: str
    data_type: str
    dims: list[int]


class ConfigInput(ConfigTensor):
    """An input; all of them are optional, because a request carries exactly one."""

    optional: bool = True


class InstanceGroup(BaseModel):
    """How many runs of the model can take place at the same time; all models share them."""

    kind: str = "KIND_CPU"
    count: int


class DynamicBatching(BaseModel):
    """Images that already wait are batched; none waits for others."""

    preferred_batch_size: list[int]
    max_queue_delay_microseconds: int = 0


class ConfigParameter(BaseModel):
    """A value."""

    string_value: str


class ModelConfig(BaseModel):
    """A model's configuration, as Triton writes its `ModelConfig`."""

    name: str
    platform: str = "onnxruntime_onnx"
    backend: str = "onnxruntime"
    version_policy: dict[str, Any] = Field(description="`all`: every version in the model folder is served.")
    max_batch_size: int = Field(description="Most images in one request.")
    input: list[ConfigInput]
    output: list[ConfigTensor]
    instance_group: list[InstanceGroup]
    dynamic_batching: DynamicBatching | None = None
    parameters: dict[str, ConfigParameter] = Field(description="`task`, and `variants`, separated by commas.")


class Duration(BaseModel):
    """A number of images, and the nanoseconds that they took in total, if they are measured."""

    count: int
    ns: int | None = None


class InferenceStatistics(BaseModel):
    """Answered and failed images, and where the time of the answered ones went."""

    success: Duration = Field(description="Answered images; Triton counts requests. The time includes decoding.")
    fail: Duration = Field(description="Images that were not answered, for whatever reason.")
    queue: Duration
    compute_input: Duration = Field(description="Decoding and preprocessing of image files.")
    compute_infer: Duration
    compute_output: Duration


class RunCount(BaseModel):
    """A number of runs."""

    count: int


class BatchStatistics(BaseModel):
    """Runs of one batch size."""

    batch_size: int
    compute_infer: RunCount


class ModelStatistics(BaseModel):
    """Statistics of one version since the start of the process, over all of its variants."""

    name: str
    version: str
    inference_count: int = Field(description="Answered images.")
    execution_count: int = Field(description="Runs of the network; one run may have several images.")
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class Statistics(BaseModel):
    """Statistics of models."""

    model_stats: list[ModelStatistics]


# Before every path with {model}, which it would otherwise be.
@router.get("/stats", summary="Statistics of all models", response_model_exclude_none=True)
async def all_statistics(services: ServicesOf) -> Statistics:
    """Of every version that is loaded."""
    return await _statistics(services, services.registry.entries())


@router.get(
    "/{model}/stats",
    summary="Statistics of a model",
    response_model_exclude_none=True,
    responses=oip_responses(*_STATUSES),
)
async def statistics(services: ServicesOf, model: _Name) -> Statistics:
    """Of every loaded version of the model."""
    found = services.registry.find(model)
    of_model = [entry for entry in services.registry.entries() if entry.card.name == found.card.name]
    return await _statistics(services, [found] if "@" in model else of_model)


@router.get(
    "/{model}/versions/{version}/stats",
    summary="Statistics of a version",
    response_model_exclude_none=True,
    responses=oip_responses(*_STATUSES),
)
async def version_statistics(services: ServicesOf, model: _Name, version: _Version) -> Statistics:
    """Of one version."""
    return await _statistics(services, [services.registry.find(f"{model}@{version}")])


@router.get(
    "/{model}/config",
    summary="A model's configuration",
    response_model_exclude_none=True,
    responses=oip_responses(*_STATUSES),
)
async def config(services: ServicesOf, model: _Name) -> ModelConfig:
    """Of the default version."""
    return _config(services, services.registry.find(model))


@router.get(
    "/{model}/versions/{version}/config",
    summary="A version's configuration",
    response_model_exclude_none=True,
    responses=oip_responses(*_STATUSES),
)
async def version_config(services: ServicesOf, model: _Name, version: _Version) -> ModelConfig:
    """Of one version."""
    return _config(services, services.registry.find(f"{model}@{version}"))


def _config(services: Services, entry: Entry) -> ModelConfig:
    card, settings = entry.card, services.settings
    batching = DynamicBatching(preferred_batch_size=[settings.max_batch]) if settings.max_batch > 1 else None
    known = {"task": card.task, "variants": ",".join(card.variants)}
    return ModelConfig(
        name=card.name,
        version_policy={"all": {}},
        max_batch_size=settings.max_images_per_request,
        input=[ConfigInput(**_tensor(kind)) for kind in inputs_of(card)],
        output=[ConfigTensor(**_tensor(kind)) for kind in outputs_of(card)],
        instance_group=[InstanceGroup(count=settings.workers)],
        dynamic_batching=batching,
        parameters={name: ConfigParameter(string_value=value) for name, value in known.items()},
    )


def _tensor(kind: TensorKind) -> dict[str, Any]:
    return {"name": kind.name, "data_type": _TYPES[kind.datatype], "dims": list(kind.shape[1:])}


async def _statistics(services: Services, entries: list[Entry]) -> Statistics:
    found = await asyncio.to_thread(services.metrics.requests.totals)
    return Statistics(
        model_stats=[_of(entry, found.get((entry.card.name, entry.card.version), Totals())) for entry in entries]
    )


def _of(entry: Entry, found: Totals) -> ModelStatistics:
    answered = found.outcomes["ok"]
    return ModelStatistics(
        name=entry.card.name,
        version=entry.card.version,
        inference_count=answered,
        execution_count=found.batches.total(),
        inference_stats=InferenceStatistics(
            success=Duration(count=answered, ns=_ns(found, "total")),
            fail=Duration(count=found.outcomes.total() - answered),
            queue=_duration(found, "queue"),
            compute_input=_duration(found, "decode", "preprocess"),
            compute_infer=_duration(found, "inference"),
            compute_output=_duration(found, "postprocess"),
        ),
        batch_stats=[
            BatchStatistics(batch_size=size, compute_infer=RunCount(count=runs))
            for size, runs in sorted(found.batches.items())
        ],
    )


def _duration(found: Totals, *stages: str) -> Duration:
    return Duration(count=max(found.images[stage] for stage in stages), ns=_ns(found, *stages))


def _ns(found: Totals, *stages: str) -> int:
    return round(1e9 * sum(found.seconds[stage] for stage in stages))
