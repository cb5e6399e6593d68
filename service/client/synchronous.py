"""The synchronous client."""

import time
from types import TracebackType
from typing import Literal, Self, TypeVar

import httpx

from service.client import calls
from service.client.calls import Call, ImageSource, Tries, TruthSource
from service.client.results import DepthMap, FeedbackResult, PointCloud
from service.client.retry import Retry
from service.experiments.wire import ExperimentInfo, ExperimentList
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


class Client:
    """A client of the service; a context manager, safe to share between threads.

    Args:
        url: The service's address, such as `http://127.0.0.1:8000`, optionally with a path prefix.
        api_key: The API key, if the service requires one.
        timeout_s: Timeout of each phase of a try, seconds: connecting, sending, and waiting for each part of the
            response. A try may take longer in total if the response arrives slowly. The timeout is also sent to the
            service (`x-timeout-ms`), so that it stops working on abandoned requests; the service may have a lower one.
            Waiting for one of the client's 100 connections is not limited.
        retry: The retry policy.
        transport: httpx transport, for tests and for applications that are called in process.

    Raises:
        ValueError: (on creation) The address is not valid, a header cannot carry the key, or the environment's proxy
            or certificate settings cannot be used (`NetworkSettingsError`).
        ProblemError: (every call) The service reported an error.
        TransportError: (every call) There was no response from the service.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = calls.standing_headers(api_key, timeout_s)
        self._retry = retry or Retry()
        timeout = httpx.Timeout(timeout_s, pool=None)  # waiting for a free connection is not the service's delay
        address = calls.checked_url(url)
        with calls.network_settings():
            self._http = httpx.Client(base_url=address, headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def classify(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        variant: str | None = None,
        top_k: int | None = None,
        min_probability: float | None = None,
    ) -> ClassifyAnswer:
        """Classifies an image. The classes are in order of falling probability."""
        data = calls.read(image)
        call = calls.classify(data, model=model, variant=variant, top_k=top_k, min_probability=min_probability)
        return self._run(call)

    def depth(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        variant: str | None = None,
        fx: float | None = None,
        size: Literal["network", "original"] = "network",
        values: bool = False,
    ) -> DepthAnswer:
        """Depth of a road scene as figures, with the map if `values`; `fx` is your camera's focal length in pixels."""
        data = calls.read(image)
        call = calls.depth(data, model=model, variant=variant, fx=fx, size=size, values=values)
        return self._run(call)

    def depth_map(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        variant: str | None = None,
        fx: float | None = None,
        size: Literal["network", "original"] = "network",
    ) -> DepthMap:
        """Depth of a road scene as a map, float32 [H, W] in metres."""
        data = calls.read(image)
        return self._run(calls.depth_map(data, model=model, variant=variant, fx=fx, size=size))

    def depth_cloud(
        self, image: ImageSource, *, model: str | None = None, variant: str | None = None, fx: float | None = None
    ) -> PointCloud:
        """Depth of a road scene as a point cloud in the camera's coordinates, metres."""
        data = calls.read(image)
        return self._run(calls.depth_cloud(data, model=model, variant=variant, fx=fx))

    def depth_picture(
        self,
        image: ImageSource,
        *,
        form: Literal["color", "png16", "npy", "ply"] = "color",
        model: str | None = None,
        variant: str | None = None,
        fx: float | None = None,
        size: Literal["network", "original"] = "network",
    ) -> bytes:
        """Depth of a road scene as a file: a colour image, a 16-bit PNG of metres x 256, an .npy or a point cloud."""
        data = calls.read(image)
        call = calls.depth_picture(data, model=model, variant=variant, fx=fx, size=size, form=form)
        return self._run(call)

    def compare_classify(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        a: str = "binary",
        b: str = "full",
        top_k: int | None = None,
    ) -> ClassifyComparison:
        """Classifies an image with two variants."""
        data = calls.read(image)
        return self._run(calls.compare_classify(data, model=model, a=a, b=b, top_k=top_k))

    def compare_depth(
        self,
        image: ImageSource,
        *,
        model: str | None = None,
        a: str = "binary",
        b: str = "full",
        fx: float | None = None,
    ) -> DepthComparison:
        """Depth of a road scene with two variants."""
        data = calls.read(image)
        return self._run(calls.compare_depth(data, model=model, a=a, b=b, fx=fx))

    def feedback(self, token: str, label: int | str) -> FeedbackResult:
        """Sends the true class of an image: an answer's `feedback_token`, and the class's index, wnid or name."""
        return self._run(calls.feedback(token, label))

    def feedback_depth(self, token: str, image: ImageSource, truth: TruthSource) -> FeedbackResult:
        """Sends the measured depth of an image: an answer's `feedback_token`, the same image file, and metres."""
        data, truth_data = calls.read(image), calls.read_truth(truth)
        return self._run(calls.feedback_depth(token, data, truth_data))

    def experiments(self) -> ExperimentList:
        """All experiments on live traffic, with their results and verdicts."""
        return self._run(calls.experiments())

    def experiment(self, name: str) -> ExperimentInfo:
        """One experiment, with its results and its verdict."""
        return self._run(calls.experiment(name))

    def models(self) -> ModelList:
        """All models with their cards, and which variants run."""
        return self._run(calls.models())

    def health(self) -> Health:
        """Checks that the process is alive."""
        return self._run(calls.health())

    def ready(self) -> Readiness:
        """Whether the service is ready for requests. Not being ready is a result, not an error."""
        return self._run(calls.ready())

    def _run(self, call: Call[T]) -> T:
        tries = Tries(call, self._retry, self._http.base_url)
        while True:
            try:
                response = self._http.send(call.request(self._http))
                if (wait_s := tries.answered(response)) is None:
                    return call.result(response)
            except httpx.HTTPError as error:
                wait_s = tries.failed(error)
            time.sleep(wait_s)
