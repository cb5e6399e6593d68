"""A little of everything that the dashboards show, sent to real services: answers, mistakes, and what is dropped."""

from __future__ import annotations

import io
import itertools
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.tiny_zoo import DEPTH_SIZE

VARIANTS = ("binary", "reference", "full")
JPEG = {"content-type": "image/jpeg"}
ANSWER_S = 120.0  # patience with an answer where others have the CPU

# Two experiments, so that each mode that runs pairs is there to be seen.
PAIRED, SHADOW = "colours-paired", "ramp-shadow"
EXPERIMENTS = {
    "experiments": [
        {
            "name": PAIRED,
            "task": "classify",
            "mode": "paired",
            "baseline": {"variant": "full"},
            "candidate": {"variant": "binary"},
        },
        {
            "name": SHADOW,
            "task": "depth",
            "mode": "shadow",
            "baseline": {"variant": "full"},
            "candidate": {"variant": "binary"},
        },
    ]
}

# A request of so many images keeps a worker busy for as long as it takes to look at the queue behind it.
INFER = "/v2/models/tiny-bireal-depth/infer"
MANY = 2000


def photo(colour: str, size: tuple[int, int] = (120, 60)) -> bytes:
    """A JPEG of one colour; `size` is width and height, pixels."""
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "JPEG")
    return data.getvalue()


def send_a_little_of_everything(url: str, variants: tuple[str, ...] = VARIANTS) -> None:
    """Each task by each variant, comparisons, and a mistake of the client's; fails unless each ends as it should."""
    with httpx.Client(base_url=url, timeout=ANSWER_S) as client:
        for variant in variants:
            for path in ("/classify", "/depth"):
                answer = client.post(path, params={"variant": variant}, content=photo("red"), headers=JPEG)
                assert answer.status_code == 200, answer.text
        if "full" in variants:
            for path in ("/compare/classify", "/compare/depth"):
                answer = client.post(path, content=photo("green"), headers=JPEG)
                assert answer.status_code == 200, answer.text
        answer = client.post("/classify", content=b"not an image", headers=JPEG)
        assert 400 <= answer.status_code < 500


def take_part_and_say_what_was_right(url: str) -> None:
    """Images for the running experiments, by both arms, and the truth of those that were classified."""
    with httpx.Client(base_url=url, timeout=ANSWER_S) as client:
        for colour in ("red", "green", "blue"):
            answer = client.post("/classify", content=photo(colour), headers=JPEG)
            assert answer.json()["experiment"]["name"] == PAIRED, answer.text
            said = client.post("/feedback", json={"token": answer.json()["feedback_token"], "label": colour})
            assert said.status_code == 201, said.text
            answer = client.post("/depth", content=photo(colour), headers=JPEG)
            assert answer.json()["experiment"]["name"] == SHADOW, answer.text


def overload(url: str, timeout_s: float = 240.0) -> None:
    """Has a small queue of the depth network refuse, let a deadline pass and lose a client, each until it was counted.

    A request of very many images keeps the only worker busy, and the queue full, for as long as it takes to look:
    nothing here depends on how fast the machine is. The service must allow `--max-images-per-request` of MANY.
    """
    give_up = time.monotonic() + timeout_s
    with httpx.Client(base_url=url, timeout=timeout_s) as client:

        def empty() -> bool:
            return not _metric(client, "bireal_queue_depth")

        def refused_and_cancelled() -> bool:
            return all(_metric(client, name) for name in ("bireal_rejected_total", "bireal_cancelled_total"))

        while not refused_and_cancelled():
            with full_queue(url, timeout_s=timeout_s):
                answer = client.post("/depth?variant=binary", content=photo("blue"), headers=JPEG)
                assert answer.status_code in {200, 429}, answer.text
            # The service has seen that its client is gone, or has run them all: then once more.
            _until("the queue is empty", empty, give_up)
        # Each deadline is twice the last one, so that one of them passes while most of the images wait.
        deadlines_ms = itertools.cycle(2**power for power in range(17))
        while not _metric(client, "bireal_expired_total"):
            assert time.monotonic() < give_up, "no deadline passed in the queue"
            body, headers = _many_images()
            hurry = {"x-timeout-ms": str(next(deadlines_ms))}
            answer = client.post(INFER, content=body, headers=headers | hurry)
            assert answer.status_code in {200, 408, 504}, answer.text
        _until("the queue is empty", empty, give_up)


@contextmanager
def full_queue(url: str, images: int = MANY, *, timeout_s: float = 240.0) -> Iterator[Callable[[], bool]]:
    """The queue of the depth network's binary variant is full when the block begins, or was until a moment before.

    The service must allow `--max-images-per-request` of so many, and should have one worker and a short queue.

    Yields:
        Whether the images that fill it have all run, or were refused because others had filled it.
    """
    give_up = time.monotonic() + timeout_s
    with httpx.Client(base_url=url, timeout=timeout_s) as client, _sent(url, *_many_images(images)) as connection:
        limit = _metric(client, "bireal_queue_limit")

        def full() -> bool:
            return _metric(client, "bireal_queue_depth") > limit

        _until("the queue is full", lambda: full() or _answered(connection), give_up)
        yield lambda: _answered(connection)


@contextmanager
def kept_full(url: str) -> Iterator[None]:
    """As `full_queue`, again and again until the end of the block."""
    stop = threading.Event()

    def fill() -> None:
        while not stop.is_set():
            with full_queue(url) as over:
                while not over() and not stop.wait(0.1):
                    pass

    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(fill)
        try:
            yield
        finally:
            stop.set()
        filling.result()


def _until(what: str, condition: Callable[[], bool], give_up: float) -> None:
    """Asks until the answer is yes; fails at a moment of `time.monotonic()`."""
    while not condition():
        assert time.monotonic() < give_up, f"not in time: {what}"
        time.sleep(0.002)


def _many_images(images: int = MANY) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with very many images of the depth network's size, as binary tensors."""
    height, width = DEPTH_SIZE
    count = images * height * width * 3
    image = {"name": "image", "datatype": "UINT8", "shape": [images, height, width, 3]}
    document = {
        "inputs": [image | {"parameters": {"binary_data_size": count}}],
        "parameters": {"variant": "binary", "binary_data_output": True},
    }
    head = json.dumps(document).encode()
    return head + bytes(count), {
        "inference-header-content-length": str(len(head)),
        "content-type": "application/octet-stream",
    }


@contextmanager
def _sent(url: str, body: bytes, headers: dict[str, str]) -> Iterator[socket.socket]:
    """A connection over which a request was sent; closed at the end, answered or not."""
    host, port = url.removeprefix("http://").split(":")
    lines = [f"POST {INFER} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        yield connection


def _answered(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


def _metric(client: httpx.Client, name: str) -> float:
    """The sum of a metric's samples; 0 where it has none."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)
