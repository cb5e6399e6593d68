"""`evaluate --url`: one network of a running service."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from service.card import ClassLabel, TaskName
from service.cli.data import read
from service.cli.network import BEST
from service.cli.remote import (
    MOST_CLASSES,
    ServiceChangedError,
    about_file,
    check_all_classes,
    classes_result,
    find,
    grey_picture,
)
from service.client import AsyncClient, DepthMap
from service.schemas import ClassifyAnswer, DepthAnswer, ModelInfo
from service.tasks import ClassifyResult
from service.tasks.base import Geometry
from service.tasks.depth import place_in_picture


class Ran(Protocol):
    """What every answer says about the network that ran."""

    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def variant(self) -> str: ...  # noqa: D102
    @property
    def kernel(self) -> str: ...  # noqa: D102


class _Identity(NamedTuple):
    model: str
    version: str
    variant: str


class Sameness:
    """Checks that every answer comes from the same network, and collects the kernels, which may differ by replica.

    Otherwise a reload, a canary or a load balancer in front of different replicas would mix two networks in one figure.

    Args:
        first: The first answer.
        fallback: Why a variant other than the requested one ran.
    """

    def __init__(self, first: Ran, fallback: str | None) -> None:
        self._identity = _Identity(first.model, first.version, first.variant)
        self._kernels = {first.kernel}
        self._fallback = fallback

    def check(self, answer: Ran) -> None:
        """Checks one more answer.

        Raises:
            ServiceChangedError: It comes from a different network.
        """
        found = _Identity(answer.model, answer.version, answer.variant)
        if found != self._identity:
            first, then = (f"{one.model}@{one.version} ({one.variant})" for one in (self._identity, found))
            raise ServiceChangedError(
                f"{first} answered at first and {then} later: the service was changed in between, or its replicas "
                "differ. Add --model NAME@VERSION and run the command again."
            )
        self._kernels.add(answer.kernel)

    def describe(self) -> dict[str, str]:
        """`model`, `version`, `variant`, `kernel`, and `fallback` if a different variant was requested."""
        labels = self._identity._asdict() | {"kernel": ", ".join(sorted(self._kernels))}
        return labels | ({"fallback": self._fallback} if self._fallback else {})


def geometry_of(found: DepthMap) -> Geometry:
    """The part of the image that a map covers."""
    (picture_height, picture_width), (height, width) = found.picture_size, found.metres.shape
    return Geometry(picture_width, picture_height, *found.region, input_width=width, input_height=height)


class RemoteNetwork:
    """See `service.cli.network.Network`.

    Args:
        service: A client of the service that runs it.
        model: The model as named on the command line.
        variant: Always named, because a request without a variant may become part of an experiment.
        first: The answer for a grey image.
        classes: The classes of a classifier.
    """

    #: Enough to hide the round trip, and few enough to leave the service room for other clients.
    at_once = 4

    def __init__(
        self,
        service: AsyncClient,
        model: str | None,
        variant: str,
        first: ClassifyAnswer | DepthAnswer,
        classes: Sequence[ClassLabel],
    ) -> None:
        self._service, self._model, self._variant = service, model, variant
        self._same = Sameness(first, first.fallback)
        self._classes = classes

    @classmethod
    async def open(
        cls, service: AsyncClient, task: TaskName, model: str | None, variant: str | None, default: str
    ) -> Self:
        """Sends a grey image first, so that a wrong key, model or variant fails at once.

        Args:
            service: A connected client.
            task: The network's task.
            model: The model as named on the command line; None for the service's default.
            variant: The variant as named on the command line; None for `default` if the model has it, else for the
                model's first variant.
            default: The default variant.
        """
        models = await service.models()
        named = variant or _default_variant(find(models, task, model), default)
        if task == "depth":
            return cls(service, model, named, await service.depth(grey_picture(), model=model, variant=named), ())
        first = await service.classify(grey_picture(), model=model, variant=named, top_k=MOST_CLASSES)
        check_all_classes(models, first)
        return cls(service, model, named, first, class_labels(first))

    @property
    def classes(self) -> Sequence[ClassLabel]:
        """See `Network`."""
        return self._classes

    async def classify(self, path: Path) -> ClassifyResult:
        """See `Network`."""
        with about_file():
            data = await asyncio.to_thread(read, path)
            answer = await self._service.classify(data, model=self._model, variant=self._variant, top_k=BEST)
        self._same.check(answer)
        return classes_result(answer)

    async def depth(self, path: Path, fx_px: float | None) -> npt.NDArray[np.float32]:
        """See `Network`."""
        with about_file():
            data = await asyncio.to_thread(read, path)
            found = await self._service.depth_map(data, model=self._model, variant=self._variant, fx=fx_px)
        self._same.check(found)
        return await asyncio.to_thread(place_in_picture, found.metres, geometry_of(found))

    def describe(self) -> dict[str, str]:
        """See `Network`."""
        return self._same.describe()


def class_labels(answer: ClassifyAnswer) -> list[ClassLabel]:
    """The classes of an answer that names all of them, in the order of the network's outputs."""
    ranked = sorted(answer.predictions, key=lambda one: one.index)
    return [ClassLabel(wnid=one.wnid, name=one.name) for one in ranked]


def _default_variant(found: Sequence[ModelInfo], default: str) -> str:
    """The choice of `service.registry.resolution`; `default` for an unknown model, so that the service refuses it."""
    if not found:
        return default
    served = [one.variant for one in found[0].variants]
    if default in served or (default == "full" and found[0].full is not None):
        return default
    return served[0]
