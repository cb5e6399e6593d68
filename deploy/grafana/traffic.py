"""Traffic that fills the dashboards: both tasks, every variant, an experiment with feedback, and client errors."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import yaml

from loadtest.pictures import photo_like

_EXPERIMENT = {
    "experiments": [
        {
            "name": "binary-in-place-of-full",
            "task": "classify",
            "mode": "paired",
            "baseline": {"variant": "full"},
            "candidate": {"variant": "binary"},
            "sample": 0.5,
        }
    ]
}
_CLIENTS = 3
_PAUSE_S = (0.01, 0.06)


def declare(folder: Path) -> list[object]:
    """Options of a service with an experiment, feedback and the parity monitor.

    Args:
        folder: folder for the declaration and the feedback store.
    """
    path = folder / "experiments.yaml"
    path.write_text(yaml.safe_dump(_EXPERIMENT))
    options: list[object] = ["--experiments-file", path, "--feedback-store", folder / "feedback.db"]
    return [*options, "--parity-sample", 0.1, "--parity-layer-sample", 0.2]


def send(url: str, seconds: float, data: Path | None = None) -> dict[str, int]:
    """Sends requests for a given time.

    Args:
        url: address of the service.
        seconds: duration.
        data: folder of images, with one folder per class named by its WordNet id; the true class is sent as feedback.

    Returns:
        Number of responses by kind of request and status.
    """
    images = [(path.read_bytes(), path.parent.name) for path in images_of(data)] if data else []
    images = images or [(photo_like(seed=seed), "") for seed in range(8)]
    counts: Counter[str] = Counter()
    lock, until = threading.Lock(), time.monotonic() + seconds

    def work(seed: int) -> None:
        drawn = random.Random(seed)  # noqa: S311  nothing secret
        kinds = itertools.cycle(("experiment", "binary", "experiment", "full", "depth", "compare", "depth full"))
        with httpx.Client(base_url=url, timeout=60) as client:
            while time.monotonic() < until:
                image, truth = drawn.choice(images)
                kind = next(kinds) if drawn.random() > 0.02 else "mistake"
                answer = _ask(client, kind, image)
                with lock:
                    counts[f"{kind} {answer.status_code}"] += 1
                if kind == "experiment" and truth and answer.status_code == 200:
                    token = answer.json()["feedback_token"]
                    client.post("/feedback", json={"token": token, "label": truth})
                time.sleep(drawn.uniform(*_PAUSE_S))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(sorted(counts.items()))


def _ask(client: httpx.Client, kind: str, image: bytes) -> httpx.Response:
    paths = {
        "experiment": "/classify",
        "binary": "/classify?variant=binary",
        "full": "/classify?variant=full",
        "depth": "/depth",
        "depth full": "/depth?variant=full",
        "compare": "/compare/classify",
        "mistake": "/classify",
    }
    body = b"not an image" if kind == "mistake" else image
    return client.post(paths[kind], content=body, headers={"content-type": "image/jpeg"})


def images_of(data: Path, most: int = 600) -> list[Path]:
    """A reproducible selection of images of all classes."""
    found = sorted(path for path in data.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    random.Random(1).shuffle(found)  # noqa: S311  nothing secret
    return found[:most]
