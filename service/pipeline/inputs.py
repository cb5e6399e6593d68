"""From uploads to the inputs of a network: decoded and scaled in threads."""

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.errors import ServiceError, kept
from service.imaging import DecodedImage, ImageLimits, ImageReport, decode
from service.metrics import Stage
from service.pipeline.stages import Step
from service.pipeline.telemetry import Telemetry
from service.pipeline.threads import ThreadPool
from service.pipeline.upload import Upload
from service.registry import Handle
from service.tasks import Prepared


class Decoded(NamedTuple):
    """A decoded upload, and how long that took."""

    image: DecodedImage
    step: Step


class Input(NamedTuple):
    """A network's input and its source, and how long `decode` and `preprocess` took."""

    prepared: Prepared
    report: ImageReport
    steps: dict[Stage, Step]


class Inputs:
    """Prepares the inputs of networks.

    Args:
        pool: Its threads decode and preprocess.
        limits: Limits on images.
        telemetry: Notified of every image that is decoded.
    """

    def __init__(self, pool: ThreadPool, limits: ImageLimits, telemetry: Telemetry) -> None:
        self._pool, self._limits, self._telemetry = pool, limits, telemetry

    async def of_files(self, uploads: Sequence[Upload], handle: Handle) -> list[Input | ServiceError]:
        """Converts uploads to inputs, in threads; returns them in order. Either all are admitted or none."""
        hint, asked = handle.task.decode_hint(handle.card), time.perf_counter()
        calls = [partial(self.prepare, upload, handle, hint, asked) for upload in uploads]
        return await self._pool.run_many(lane(handle), calls)

    async def of_all(
        self, images: Sequence[Upload] | npt.NDArray[np.uint8], handle: Handle
    ) -> list[Input | npt.NDArray[np.uint8]]:
        """The inputs of files, or raw inputs themselves; raises the error of a file that cannot be read."""
        if isinstance(images, np.ndarray):
            return list(images)
        found = await self.of_files(images, handle)
        for upload, item in zip(images, found, strict=True):
            if isinstance(item, ServiceError):
                found.clear()
                try:
                    raise item if len(images) == 1 else item.about(upload.name)
                finally:
                    del item  # see `only`
        return [item for item in found if isinstance(item, Input)]

    def decode(self, upload: Upload, hint: tuple[int, int], asked: float) -> Decoded:
        """In a thread that was asked for at a moment: decodes an upload. Counts it, for whatever it is used then."""
        begun = time.perf_counter()
        image = decode(upload.data, upload.content_type, self._limits, hint=hint)
        self._telemetry.decoded(image.report)
        return Decoded(image, Step.ended(begun, asked))

    def prepare(self, upload: Upload, handle: Handle, hint: tuple[int, int], asked: float) -> Input | ServiceError:
        """In a thread that was asked for at a moment: converts an upload to an input.

        Errors in the upload are returned, not raised, and do not keep the upload in memory.
        """
        try:
            return preprocessed(self.decode(upload, hint, asked), handle)
        except ServiceError as error:
            return kept(error)


def preprocessed(decoded: Decoded, handle: Handle, asked: float | None = None) -> Input:
    """In a thread: a network's input from a decoded image.

    Args:
        decoded: The image.
        handle: The network.
        asked: When the thread was asked for; None if it is the one that has decoded the image.
    """
    begun = time.perf_counter()
    prepared = handle.task.preprocess(decoded.image, handle.card)
    steps: dict[Stage, Step] = {"decode": decoded.step, "preprocess": Step.ended(begun, asked)}
    return Input(prepared, decoded.image.report, steps)


def lane(handle: Handle) -> str:
    """The lane of calls that prepare a network's input."""
    return handle.card.task
