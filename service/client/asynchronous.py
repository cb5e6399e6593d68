"""The asynchronous client."""

import asyncio
from types import TracebackType
from typing import Literal, Self, TypeVar

import httpx

from service.client import calls
from service.client.calls import Call, ImageSource, Tries
from service.client.results import DepthMap, FeedbackResult, PointCloud
from service.client.retry import Retry
from service.schemas import (
    ClassifyAnswer,
    ClassifyComparison,
    DepthAnswer,
    DepthComparison,
    Health,
    ModelList,
    Readiness,
)

T = TypeVar("T")


class AsyncClient:
    """Asks a service; an asynchronous context manager.

    Args:
        url: Its address, such as `http://127.0.0.1:8000`; a path below which it is served may follow.
        api_key: Where the service asks for one.
        timeout_s: Longest wait in one try, seconds: for the connection, for sending, and for each part of the answer.
            As a whole a try may take longer, where an answer trickles in. The service is told too (`x-timeout-ms`), so
            that it stops working on what nobody waits for; it may have a shorter limit of its own.
        retry: When a call is made again.
        transport: Of httpx; for tests, and for applications that are called in process.

    Raises:
        ValueError: (at once) The address is none, or the key has characters that a header cannot carry.
        ProblemError: (every call) The service refused or failed; it says why.
        TransportError: (every call) There was no answer of the service.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = calls.standing_headers(api_key, timeout_s)
        self._retry = retry or Retry()
        self._http = httpx.AsyncClient(
            base_url=calls.checked_url(url), headers=headers, timeout=timeout_s, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def classify(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        variant: str | None = None,
        top_k: int | None = None,
        min_probability: float | None = None,
    ) -> ClassifyAnswer:
        """The classes of a picture, by falling probability."""
        data = await asyncio.to_thread(calls.read, image)
        call = calls.classify(data, model=model, variant=variant, top_k=top_k, min_probability=min_probability)
        return await self._run(call)

    async def depth(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        variant: str | None = None,
        fx: float | None = None,
        size: Literal["network", "original"] = "network",
        values: bool = False,
    ) -> DepthAnswer:
        """The depth of a road scene, in figures, with the map if `values`; `fx`: your camera's focal length, pixels."""
        data = await asyncio.to_thread(calls.read, image)
        call = calls.depth(data, model=model, variant=variant, fx=fx, size=size, values=values)
        return await self._run(call)

    async def depth_map(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        variant: str | None = None,
        fx: float | None = None,
        size: Literal["network", "original"] = "network",
    ) -> DepthMap:
        """The depth of a road scene, float32 [H, W] in metres."""
        data = await asyncio.to_thread(calls.read, image)
        return await self._run(calls.depth_map(data, model=model, variant=variant, fx=fx, size=size))

    async def depth_cloud(
        self, image: ImageSource, *, model: str | None = None, variant: str | None = None, fx: float | None = None
    ) -> PointCloud:
        """The depth of a road scene as a point cloud in the camera's coordinates, metres."""
        data = await asyncio.to_thread(calls.read, image)
        return await self._run(calls.depth_cloud(data, model=model, variant=variant, fx=fx))

    async def depth_picture(
        self,
        image: ImageSource,
        *,
        form: Literal["color", "png16", "npy", "ply"] = "color",
        model: str | None = None,
        variant: str | None = None,
        fx: float | None = None,
        size: Literal["network", "original"] = "network",
    ) -> bytes:
        """The depth of a road scene as a file: a picture, a 16-bit PNG of metres x 256, an array, a point cloud."""
        data = await asyncio.to_thread(calls.read, image)
        call = calls.depth_picture(data, model=model, variant=variant, fx=fx, size=size, form=form)
        return await self._run(call)

    async def compare_classify(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        a: str = "binary",
        b: str = "full",
        top_k: int | None = None,
    ) -> ClassifyComparison:
        """The classes of a picture by two variants."""
        data = await asyncio.to_thread(calls.read, image)
        return await self._run(calls.compare_classify(data, model=model, a=a, b=b, top_k=top_k))

    async def compare_depth(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        a: str = "binary",
        b: str = "full",
        fx: float | None = None,
    ) -> DepthComparison:
        """The depth of a road scene by two variants."""
        data = await asyncio.to_thread(calls.read, image)
        return await self._run(calls.compare_depth(data, model=model, a=a, b=b, fx=fx))

    async def feedback(self, token: str, label: int | str) -> FeedbackResult:
        """Says what a picture really showed: `token` is an answer's `feedback_token`, `label` index, wnid or name."""
        return await self._run(calls.feedback(token, label))

    async def models(self) -> ModelList:
        """Every model from its card, and which variants run."""
        return await self._run(calls.models())

    async def health(self) -> Health:
        """Whether the process lives."""
        return await self._run(calls.health())

    async def ready(self) -> Readiness:
        """Whether requests are answered; never raises because they are not."""
        return await self._run(calls.ready())

    async def _run(self, call: Call[T]) -> T:
        tries = Tries(call, self._retry, self._http.base_url)
        while True:
            try:
                response = await self._http.send(call.request(self._http))
                if (wait_s := tries.answered(response)) is None:
                    return call.result(response)
            except httpx.HTTPError as error:
                wait_s = tries.failed(error)
            await asyncio.sleep(wait_s)
