"""`compare --url`: two networks of a running service, on one image or on the images of a folder."""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from service.card import ClassLabel, TaskName
from service.cli.compare_folder import Item, Placed, classified, depth_pair, depth_side, measured
from service.cli.data import read, taken_by
from service.cli.remote import MOST_CLASSES, about_file, check_all_classes, classes_result, grey_picture
from service.cli.remote_network import Sameness, class_labels, geometry_of
from service.client import AsyncClient
from service.client.calls import checked_url, shown
from service.pipeline import Side as SideName
from service.report.pairs import Pair
from service.schemas import ClassifyComparison, ComparedWeights, DepthComparison, ModelList
from service.tasks import DepthAgreement

#: The service rounds times to the microsecond; this keeps a time of 0 from dividing by zero.
_LEAST_S = 5e-7


async def compare_one(
    service: AsyncClient, path: Path, task: TaskName, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Both answers for one image, as the service sends them."""
    data = await asyncio.to_thread(read, path)
    answer = await _ask(service, task, data, arguments, fx_px=arguments.fx, top_k=arguments.top_k)
    return answer.model_dump(mode="json")


class RemoteComparison:
    """See `service.cli.compare_folder.Comparison`.

    Times are the inference times that `/compare` reports; other load on the service affects them. Depth maps, if the
    ground truth or a report needs them, take two further requests to `/depth`.

    Args:
        service: A connected client.
        arguments: The command line's arguments.
        first: The answer for a grey image.
        models: The models of the service.
        version: The service's version.
    """

    def __init__(
        self,
        service: AsyncClient,
        arguments: argparse.Namespace,
        first: ClassifyComparison | DepthComparison,
        models: ModelList,
        version: str,
    ) -> None:
        self._service, self._arguments = service, arguments
        self._same: dict[SideName, Sameness] = {
            "a": Sameness(first.a, first.a.fallback),
            "b": Sameness(first.b, first.b.fallback),
        }
        self._classes: dict[SideName, list[ClassLabel]] = {"a": [], "b": []}
        if isinstance(first, ClassifyComparison):
            self._classes = {"a": class_labels(first.a), "b": class_labels(first.b)}
        self._weights: ComparedWeights = first.weights
        self._models, self._version = models, version

    @classmethod
    async def open(cls, service: AsyncClient, task: TaskName, arguments: argparse.Namespace) -> Self:
        """Sends a grey image first, so that a wrong key, model or variant fails at once."""
        models, health = await service.models(), await service.health()
        first = await _ask(service, task, grey_picture(), arguments, fx_px=None, top_k=MOST_CLASSES)
        if isinstance(first, ClassifyComparison):
            check_all_classes(models, first.a)
        return cls(service, arguments, first, models, health.version)

    @property
    def classes(self) -> Sequence[ClassLabel]:
        """See `Comparison`."""
        return self._classes["a"]

    async def pair(self, item: Item, name: str) -> Pair:
        """See `Comparison`."""
        fx_px: float | None = self._arguments.fx
        if item.frame is not None and fx_px is None:
            fx_px = (await asyncio.to_thread(taken_by, item.frame)).fx_px
        task: TaskName = "classify" if self._classes["a"] else "depth"
        with about_file():
            data = await asyncio.to_thread(read, item.path)
            answer = await _ask(self._service, task, data, self._arguments, fx_px=fx_px, top_k=MOST_CLASSES)
        self._same["a"].check(answer.a)
        self._same["b"].check(answer.b)
        times_s = (
            max(answer.a.timings_ms.inference / 1000, _LEAST_S),
            max(answer.b.timings_ms.inference / 1000, _LEAST_S),
        )
        if isinstance(answer, ClassifyComparison):
            results = (
                classes_result(answer.a, len(self._classes["a"])),
                classes_result(answer.b, len(self._classes["b"])),
            )
            return classified(item, name, results, times_s)
        if item.frame is None and self._arguments.report is None:
            a = depth_side(times_s[0], answer.a.median_m, None)
            b = depth_side(times_s[1], answer.b.median_m, None)
            return depth_pair(name, a, b, DepthAgreement(answer.within_1_25, answer.abs_rel), None)
        with about_file():
            maps = (await self._map("a", data, fx_px), await self._map("b", data, fx_px))
        return await asyncio.to_thread(measured, item, name, maps, times_s)

    async def _map(self, side: SideName, data: bytes, fx_px: float | None) -> Placed:
        """One network's depth map of an image: the comparison itself returns only figures."""
        variant = getattr(self._arguments, side)
        found = await self._service.depth_map(data, model=self._arguments.model, variant=variant, fx=fx_px)
        self._same[side].check(found)
        return found.metres, geometry_of(found)

    def side(self, name: SideName) -> dict[str, Any]:
        """See `Comparison`."""
        described = self._same[name].describe()
        weights = self._weights
        return {
            **described,
            "weight_bytes": weights.a_bytes if name == "a" else weights.b_bytes,
            "session_bytes": self._session_bytes(described),
            "artefact_bytes": weights.a_artefact_bytes if name == "a" else weights.b_artefact_bytes,
        }

    def _session_bytes(self, described: dict[str, str]) -> int | None:
        for entry in self._models.models:
            if (entry.name, entry.version) == (described["model"], described["version"]):
                return next((one.session_bytes for one in entry.variants if one.variant == described["variant"]), None)
        return None

    def machine(self) -> dict[str, Any]:
        """See `Comparison`. A service does not say which machine it runs on."""
        described = [same.describe() for same in self._same.values()]
        return {
            "cpu": None,
            "threads": None,
            "kernel": next((one["kernel"] for one in described if one["variant"] == "binary"), "none"),
            "onnxruntime": None,
            "version": self._version,
            "url": shown(checked_url(self._arguments.url)),
        }


async def _ask(
    service: AsyncClient,
    task: TaskName,
    data: bytes,
    arguments: argparse.Namespace,
    *,
    fx_px: float | None,
    top_k: int | None,
) -> ClassifyComparison | DepthComparison:
    if task == "depth":
        return await service.compare_depth(data, model=arguments.model, a=arguments.a, b=arguments.b, fx=fx_px)
    return await service.compare_classify(data, model=arguments.model, a=arguments.a, b=arguments.b, top_k=top_k)
