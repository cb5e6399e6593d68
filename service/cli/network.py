"""What `evaluate` needs of a network, whether it runs here or in a service; and the local implementation."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from service.card import ClassLabel
from service.cli.data import FileError
from service.cli.engine import Engine, describe
from service.errors import ServiceError
from service.registry import Handle
from service.tasks import ClassifyOptions, ClassifyResult, DepthOptions, DepthResult
from service.tasks.depth import place_in_picture

#: Classes that top-5 accuracy considers.
BEST = 5


class Network(Protocol):
    """One variant of one model. The calls raise `FileError` for errors that concern only one file."""

    @property
    def at_once(self) -> int:
        """How many files to process concurrently."""
        ...

    @property
    def classes(self) -> Sequence[ClassLabel]:
        """The classes of a classifier, in the order of its outputs."""
        ...

    async def classify(self, path: Path) -> ClassifyResult:
        """The five best classes of an image, or all if there are fewer."""
        ...

    async def depth(self, path: Path, fx_px: float | None) -> npt.NDArray[np.float32]:
        """Depth at every pixel of an image: float32 [H, W], metres; NaN outside the region that the network saw."""
        ...

    def describe(self) -> dict[str, str]:
        """What ran: `model`, `version`, `variant`, `kernel`, and `fallback` if a different variant was requested."""
        ...


class LocalNetwork:
    """A network that runs in this process.

    Args:
        engine: Runs the network.
        handle: The network's handle.
    """

    def __init__(self, engine: Engine, handle: Handle) -> None:
        self._engine, self._handle = engine, handle

    @property
    def at_once(self) -> int:
        """Enough that no worker waits for an image to be decoded."""
        return 2 * self._engine.settings.workers

    @property
    def classes(self) -> Sequence[ClassLabel]:
        """See `Network`."""
        return self._handle.card.classes

    async def classify(self, path: Path) -> ClassifyResult:
        """See `Network`."""
        try:
            answer = await self._engine.predict(path, self._handle, ClassifyOptions(top_k=BEST))
        except ServiceError as error:
            raise FileError(error.detail) from error
        result: ClassifyResult = answer.result
        return result

    async def depth(self, path: Path, fx_px: float | None) -> npt.NDArray[np.float32]:
        """See `Network`."""
        try:
            answer = await self._engine.predict(path, self._handle, DepthOptions(fx_px=fx_px))
        except ServiceError as error:
            raise FileError(error.detail) from error
        result: DepthResult = answer.result
        return await asyncio.to_thread(place_in_picture, result.depth_m, result.geometry)

    def describe(self) -> dict[str, str]:
        """See `Network`."""
        return describe(self._handle)
