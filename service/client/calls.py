"""Calls as data: what to send, and how to parse the response. Contains no I/O, so that both clients share it."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from service.client.errors import NetworkSettingsError, ProblemError, RetryLimitError, TransportError
from service.client.results import Box, DepthMap, FeedbackResult, PointCloud
from service.client.retry import AGAIN, Retry, retry_after_s
from service.experiments.wire import ExperimentInfo, ExperimentList
from service.keys import fits_header
from service.schemas import (
    ClassifyAnswer,
    ClassifyComparison,
    DepthAnswer,
    DepthComparison,
    Health,
    ModelList,
    Problem,
    Readiness,
)

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
#: An image: its bytes, the path of its file, or an open binary file.
ImageSource = bytes | str | PathLike[str] | BinaryIO
#: Measured depth: a 16-bit PNG (metres x 256, 0 where unknown) or an .npy, like an image, or floats [H, W] in metres.
TruthSource = ImageSource | npt.NDArray[np.floating]

# Connections that failed or broke off, which are safe to retry: see service.client.retry.
_NOT_MADE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError)
_MOST_PORT = 65535
_LONGEST_MS = 9_999_999_999  # the longest timeout that the service accepts
_PLY_PROPERTIES = ("float x", "float y", "float z", "uchar red", "uchar green", "uchar blue")
_PLY_VERTEX = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")])


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call.

    Attributes:
        method: HTTP method.
        path: Path relative to the service's address.
        parse: Converts a response to the result, if its status is below 300 or in `expected`.
        query: Query parameters; None values are omitted.
        headers: Additional headers.
        body: Bytes to send.
        expected: Other statuses that are not errors.
    """

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    query: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    expected: frozenset[int] = frozenset()

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request to send."""
        parameters = {name: str(value) for name, value in self.query.items() if value is not None}
        return client.build_request(
            self.method, self.path, params=parameters, headers=dict(self.headers), content=self.body
        )

    def result(self, response: httpx.Response) -> T:
        """The result of a response.

        Raises:
            ProblemError: The service reported an error.
            TransportError: The response does not come from the service.
        """
        if not response.is_success and response.status_code not in self.expected:  # the service never redirects
            raise _problem(response)
        try:
            return self.parse(response)
        except (ValueError, LookupError) as error:
            raise TransportError(f"The response from {shown(response.url)} cannot be parsed: {error}") from error


class Tries:
    """The tries of one call: decides after each one whether to try again, and when.

    Args:
        call: The call.
        retry: The retry policy.
        url: The service's address, for error messages.
    """

    def __init__(self, call: Call[Any], retry: Retry, url: httpx.URL) -> None:
        self._call, self._retry, self._url = call, retry, shown(url)
        self._tried = 0

    def answered(self, response: httpx.Response) -> float | None:
        """Seconds to wait before the next try; None if the response is final."""
        self._tried += 1
        if response.status_code not in AGAIN or response.status_code in self._call.expected:
            return None
        return self._retry.wait_s(self._tried, retry_after_s(response.headers.get("retry-after")))

    def failed(self, error: httpx.HTTPError) -> float:
        """Seconds to wait before the next try after a transport error.

        Raises:
            TransportError: Calls with such an error are not retried.
            RetryLimitError: This was the last try.
        """
        self._tried += 1
        if not isinstance(error, _NOT_MADE):
            raise TransportError(f"{self._url}: {type(error).__name__} {error}") from error
        wait_s = self._retry.wait_s(self._tried, None)
        if wait_s is None:
            raise RetryLimitError(
                f"{self._url} could not be reached in {self._tried} tries ({type(error).__name__}: {error}): is the "
                "service running there?"
            ) from error
        return wait_s


def checked_url(url: str) -> httpx.URL:
    """The parsed address of a service, without trailing slashes.

    Raises:
        ValueError: It is not a valid address. The message does not repeat it, because it may contain a password.
    """
    try:
        found = httpx.URL(url.rstrip("/"))
        host = found.host  # raises UnicodeError for invalid punycode
        found.raw_host.decode("ascii").encode("idna")  # fails for empty or too long labels, as connecting would
    except (httpx.InvalidURL, UnicodeError):
        host, found = "", httpx.URL()
    port_fits = found.port is None or 0 < found.port <= _MOST_PORT
    if found.scheme not in {"http", "https"} or not host or not port_fits or found.query or found.fragment:
        raise ValueError(
            "the address must be http:// or https:// followed by a host and at most a path, as in http://127.0.0.1:8000"
        )
    return found


@contextmanager
def network_settings() -> Iterator[None]:
    """Names the settings from which httpx makes a client, if it fails: its own errors say nothing of them.

    Raises:
        NetworkSettingsError: It failed.
    """
    try:
        yield
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        # Their texts may hold a part of a proxy's password.
        raise NetworkSettingsError(
            f"the environment's network settings cannot be used ({type(error).__name__}): a proxy (HTTP_PROXY, "
            "HTTPS_PROXY, ALL_PROXY) must be http:// or https://, an IPv6 address in NO_PROXY has no brackets, and "
            "SSL_CERT_FILE or SSL_CERT_DIR, if set, must exist"
        ) from error


def shown(url: httpx.URL) -> str:
    """An address for messages and documents, without the user name and password that it may contain."""
    return str(url.copy_with(userinfo=b""))


def standing_headers(api_key: str | None, timeout_s: float) -> dict[str, str]:
    """The headers of every call.

    Raises:
        ValueError: The key cannot be sent. The message does not repeat the key, because it may end up in a log.
    """
    headers = {"x-timeout-ms": str(max(1, int(min(1000 * timeout_s, _LONGEST_MS))))}
    if api_key is not None:
        if not fits_header(api_key):
            raise ValueError("the key has characters that a header cannot carry: use printable ASCII without spaces")
        headers["x-api-key"] = api_key
    return headers


def read(image: ImageSource) -> bytes:
    """The bytes of an image; of an open file, from its current position to its end.

    Raises:
        TypeError: It is something else, such as a decoded image.
    """
    data: object = image
    if isinstance(image, str | PathLike):
        data = Path(image).read_bytes()
    elif hasattr(image, "read"):
        data = image.read()
        if isinstance(data, str):
            raise TypeError("the file is open as text; open it with mode 'rb'")
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(
        f"{type(image).__name__} is not an image file: pass the file's bytes, its path, or the file opened with mode "
        "'rb'; write a decoded image to an io.BytesIO first, as PNG or JPEG, and pass its getvalue()"
    )


def read_truth(truth: TruthSource) -> bytes:
    """The bytes of a ground truth; an array becomes an .npy.

    Raises:
        TypeError: It is neither a file nor an array of floats.
    """
    if not isinstance(truth, np.ndarray):
        return read(truth)
    if not np.issubdtype(truth.dtype, np.floating):
        raise TypeError(f"the ground truth is an array of {truth.dtype}; it must be floats, in metres")
    stream = io.BytesIO()
    np.save(stream, truth.astype(np.float32), allow_pickle=False)
    return stream.getvalue()


def classify(
    image: bytes, *, model: str | None, variant: str | None, top_k: int | None, min_probability: float | None
) -> Call[ClassifyAnswer]:
    """`POST /classify`."""
    query = {"model": model, "variant": variant, "top_k": top_k, "min_probability": min_probability}
    return _post("/classify", image, query, _model(ClassifyAnswer))


def depth(
    image: bytes, *, model: str | None, variant: str | None, fx: float | None, size: str, values: bool
) -> Call[DepthAnswer]:
    """`POST /depth`, as figures."""
    query = {"model": model, "variant": variant, "fx": fx, "size": size, "format": "json"}
    if values:
        query["values"] = "true"
    return _post("/depth", image, query, _model(DepthAnswer))


def depth_cloud(image: bytes, *, model: str | None, variant: str | None, fx: float | None) -> Call[PointCloud]:
    """`POST /depth`, as a point cloud."""
    query = {"model": model, "variant": variant, "fx": fx, "format": "ply"}
    return _post("/depth", image, query, _point_cloud)


def depth_map(image: bytes, *, model: str | None, variant: str | None, fx: float | None, size: str) -> Call[DepthMap]:
    """`POST /depth`, as a map."""
    query = {"model": model, "variant": variant, "fx": fx, "size": size, "format": "npy"}
    return _post("/depth", image, query, _depth_map)


def depth_picture(
    image: bytes, *, model: str | None, variant: str | None, fx: float | None, size: str, form: str
) -> Call[bytes]:
    """`POST /depth`, as a file."""
    query = {"model": model, "variant": variant, "fx": fx, "size": size, "format": form}
    return _post("/depth", image, query, _file)


def compare_classify(image: bytes, *, model: str | None, a: str, b: str, top_k: int | None) -> Call[ClassifyComparison]:
    """`POST /compare/classify`."""
    query = {"model": model, "a": a, "b": b, "top_k": top_k}
    return _post("/compare/classify", image, query, _model(ClassifyComparison))


def compare_depth(image: bytes, *, model: str | None, a: str, b: str, fx: float | None) -> Call[DepthComparison]:
    """`POST /compare/depth`."""
    query = {"model": model, "a": a, "b": b, "fx": fx}
    return _post("/compare/depth", image, query, _model(DepthComparison))


def feedback(token: str, label: int | str) -> Call[FeedbackResult]:
    """`POST /feedback`."""
    return Call(
        "POST",
        "/feedback",
        _model(FeedbackResult),
        headers={"content-type": "application/json"},
        body=json.dumps({"token": token, "label": label}).encode(),
    )


def feedback_depth(token: str, image: bytes, truth: bytes) -> Call[FeedbackResult]:
    """`POST /feedback/depth`."""
    form = httpx.Request("POST", "http://form", data={"token": token}, files={"picture": image, "truth": truth})
    headers = {"content-type": form.headers["content-type"]}
    return Call("POST", "/feedback/depth", _model(FeedbackResult), headers=headers, body=form.read())


def experiments() -> Call[ExperimentList]:
    """`GET /experiments`."""
    return Call("GET", "/experiments", _model(ExperimentList))


def experiment(name: str) -> Call[ExperimentInfo]:
    """`GET /experiments/{name}`."""
    return Call("GET", f"/experiments/{quote(name, safe='')}", _model(ExperimentInfo))


def models() -> Call[ModelList]:
    """`GET /models`."""
    return Call("GET", "/models", _model(ModelList))


def health() -> Call[Health]:
    """`GET /healthz`."""
    return Call("GET", "/healthz", _model(Health))


def ready() -> Call[Readiness]:
    """`GET /readyz`; 503 is not an error."""
    return Call("GET", "/readyz", _model(Readiness), expected=frozenset({HTTPStatus.SERVICE_UNAVAILABLE}))


def _post(path: str, image: bytes, query: Mapping[str, object], parse: Callable[[httpx.Response], T]) -> Call[T]:
    # The service detects the image format from the content, so no type is declared.
    return Call("POST", path, parse, query, {"content-type": "application/octet-stream"}, image)


def _model(kind: type[M]) -> Callable[[httpx.Response], M]:
    """Parses JSON. Unknown members are ignored, because the service may be newer."""
    return lambda response: kind.model_validate_json(response.content, extra="ignore")


def _file(response: httpx.Response) -> bytes:
    """The body, if the service sent it: a proxy's login page would be saved as a picture."""
    if "x-bireal-map" not in response.headers:
        raise ValueError("it has no header x-bireal-map, so it is not the service's")
    return response.content


def _depth_map(response: httpx.Response) -> DepthMap:
    headers = response.headers
    picture, focal = _members(headers["x-bireal-picture"]), _members(headers["x-bireal-focal"])
    return DepthMap(
        metres=np.lib.format.read_array(io.BytesIO(response.content), allow_pickle=False),  # an .npy, nothing else
        valid=_box(headers["x-bireal-valid"]),
        region=_box(headers["x-bireal-region"]),
        picture_size=(int(picture["height"]), int(picture["width"])),
        fx_px=float(focal["fx_px"]),
        fx_source=focal["fx_source"],
        model=headers["x-bireal-model"],
        version=headers["x-bireal-version"],
        variant=headers["x-bireal-variant"],
        kernel=headers["x-bireal-kernel"],
        request_id=headers["x-request-id"],
        feedback_token=headers.get("x-bireal-feedback-token"),
    )


def _point_cloud(response: httpx.Response) -> PointCloud:
    """Reads a PLY file in the only layout that the service writes.

    Raises:
        ValueError: It has a different layout.
    """
    end = b"end_header\n"
    at = response.content.find(end)
    lines = response.content[: max(at, 0)].decode("ascii").splitlines()
    declared = tuple(line.removeprefix("property ") for line in lines if line.startswith("property "))
    if at < 0 or declared != _PLY_PROPERTIES or "format binary_little_endian 1.0" not in lines:
        raise ValueError("it is not a point cloud in the service's layout")
    (count,) = (int(line.split()[2]) for line in lines if line.startswith("element "))
    # Raises ValueError if the file is shorter than its header says.
    vertices = np.frombuffer(response.content, dtype=_PLY_VERTEX, count=count, offset=at + len(end))
    focal = _members(response.headers["x-bireal-focal"])
    return PointCloud(
        metres=np.stack([vertices[axis] for axis in "xyz"], axis=1),
        colors=np.stack([vertices[name] for name in ("red", "green", "blue")], axis=1),
        fx_px=float(focal["fx_px"]),
        fx_source=focal["fx_source"],
        ply=response.content,
    )


def _members(header: str) -> dict[str, str]:
    """`a=1, b=2` as a dictionary."""
    return dict(part.strip().split("=", 1) for part in header.split(","))


def _box(header: str) -> Box:
    return Box(**{name: int(value) for name, value in _members(header).items()})


def _problem(response: httpx.Response) -> ProblemError | TransportError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return TransportError(
            f"{shown(response.url)} answered {response.status_code} without a problem document: this is not the "
            "service, or a proxy in front of it answered."
        )
    return ProblemError(problem, response.status_code, retry_after_s(response.headers.get("retry-after")))
