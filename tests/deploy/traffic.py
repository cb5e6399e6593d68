"""A little of everything that the dashboards show, sent to real services: answers, mistakes, and what is dropped."""

from __future__ import annotations

import io
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from PIL import Image

VARIANTS = ("binary", "reference", "full")
JPEG = {"content-type": "image/jpeg"}

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

# What a small queue drops, and how it is counted.
DROPPED = ("bireal_rejected_total", "bireal_expired_total", "bireal_cancelled_total")


def photo(colour: str, size: tuple[int, int] = (120, 60)) -> bytes:
    """A JPEG of one colour; `size` is width and height, pixels."""
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "JPEG")
    return data.getvalue()


def send_a_little_of_everything(url: str, variants: tuple[str, ...] = VARIANTS) -> None:
    """Each task by each variant, comparisons, and a mistake of the client's; fails unless each ends as it should."""
    with httpx.Client(base_url=url, timeout=30) as client:
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
    with httpx.Client(base_url=url, timeout=30) as client:
        for colour in ("red", "green", "blue"):
            answer = client.post("/classify", content=photo(colour), headers=JPEG)
            assert answer.json()["experiment"]["name"] == PAIRED, answer.text
            said = client.post("/feedback", json={"token": answer.json()["feedback_token"], "label": colour})
            assert said.status_code == 201, said.text
            answer = client.post("/depth", content=photo(colour), headers=JPEG)
            assert answer.json()["experiment"]["name"] == SHADOW, answer.text


def overload(url: str, timeout_s: float = 60.0) -> None:
    """More than a small queue takes, with deadlines that pass and clients that go, until each was counted."""
    give_up = time.monotonic() + timeout_s
    with httpx.Client(base_url=url, timeout=30) as client, ThreadPoolExecutor(12) as pool:

        def ask(turn: int) -> None:
            if turn % 4 == 0:
                _ask_and_leave(url)
                return
            hurry = {"x-timeout-ms": str(2 + turn % 20)} if turn % 4 == 1 else {}
            answer = client.post("/depth?size=original&format=npy", content=photo("blue"), headers=JPEG | hurry)
            assert answer.status_code in {200, 408, 429, 504}, answer.text

        while missing := [name for name in DROPPED if not _counted(client, name)]:
            assert time.monotonic() < give_up, f"not counted under overload: {missing}"
            list(pool.map(ask, range(48)))


def _ask_and_leave(url: str) -> None:
    """Sends a request and closes the connection before the answer."""
    host, port = url.removeprefix("http://").split(":")
    body = photo("blue")
    head = f"POST /depth HTTP/1.1\r\nhost: {host}\r\ncontent-type: image/jpeg\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(0.003)  # long enough to be read, too short to be answered behind a full queue


def _counted(client: httpx.Client, name: str) -> bool:
    return re.search(rf"^{name}{{.*}} [1-9]", client.get("/metrics").text, re.MULTILINE) is not None
