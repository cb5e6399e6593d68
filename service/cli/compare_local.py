"""Compares two networks of this process on the images of a folder, one image after the other."""

import asyncio
from collections.abc import Sequence
from typing import Any

import onnxruntime

from service.api.wire import weight_bytes
from service.app import service_version
from service.card import ClassLabel
from service.cli.compare_folder import Item, classified, measured
from service.cli.data import FileError, taken_by
from service.cli.engine import Engine, describe
from service.errors import ServiceError
from service.host import cpu_name
from service.pipeline import Side as SideName
from service.registry import Handle
from service.report.pairs import Pair
from service.tasks import ClassifyOptions, DepthOptions


class LocalComparison:
    """See `service.cli.compare_folder.Comparison`.

    Args:
        engine: Runs both networks.
        sides: The two networks.
        options: Options of their task.
    """

    def __init__(self, engine: Engine, sides: dict[SideName, Handle], options: ClassifyOptions | DepthOptions) -> None:
        self._engine, self._sides, self._options = engine, sides, options

    @property
    def classes(self) -> Sequence[ClassLabel]:
        """See `Comparison`."""
        return self._sides["a"].card.classes

    async def pair(self, item: Item, name: str) -> Pair:
        """See `Comparison`."""
        options = self._options
        if item.frame is not None and isinstance(options, DepthOptions) and options.fx_px is None:
            camera = await asyncio.to_thread(taken_by, item.frame)
            options = DepthOptions(fx_px=camera.fx_px)
        try:
            answers, _ = await self._engine.compare(item.path, self._sides, options)
        except ServiceError as error:
            raise FileError(error.detail) from error
        a, b = answers["a"], answers["b"]
        times_s = (a.stages["inference"], b.stages["inference"])
        if isinstance(options, ClassifyOptions):
            return classified(item, name, (a.result, b.result), times_s)
        maps = tuple((side.result.depth_m, side.result.geometry) for side in (a, b))
        return await asyncio.to_thread(measured, item, name, (maps[0], maps[1]), times_s)

    def side(self, name: SideName) -> dict[str, Any]:
        """See `Comparison`."""
        handle = self._sides[name]
        described = handle.model.describe()
        return {
            **describe(handle),
            "weight_bytes": weight_bytes(handle),
            "session_bytes": described["session_bytes"],
            "artefact_bytes": described["artefact_bytes"],
        }

    def machine(self) -> dict[str, Any]:
        """See `Comparison`."""
        kernels = (handle.kernel for handle in self._sides.values() if handle.variant == "binary")
        return {
            "cpu": cpu_name(),
            "threads": self._engine.settings.intra_op_threads,
            "kernel": next(kernels, "none"),
            "onnxruntime": onnxruntime.__version__,
            "version": service_version(),
            "url": None,
        }
