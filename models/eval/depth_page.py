"""``python -m models.eval.depth_page --data DRIVE --models ZOO``: write the pages of the depth models.

Runs ``python -m service evaluate`` on a packed drive for every depth model of a folder, each binary model against its
full-precision twin, and stores the output in ``OUT/<name>.json``. From these files it writes the pages, plots of the
errors by distance and by frame, and a picture of a synthetic scene. Without ``--data`` it only rewrites all of these.

``--pictures DIR`` draws frames of the drive: input, LiDAR, depth maps and errors. Pictures of KITTI must not be
redistributed, so a folder under version control is refused. Every run with ``--data`` is logged as a reading of it.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models import command_line
from models.eval import scene
from models.eval.depth_figures import by_distance, by_frame
from models.eval.depth_floor import floor
from models.eval.depth_pictures import Network, View, picture, save_picture, view_of
from models.eval.depth_text import label_of, page
from models.eval.page import evaluate, stored_results
from models.export.readings import ROOT, Occasion, commit, count, occasion
from models.figures.style import save
from models.train.provenance import hardware
from service.card import Card, version_key
from service.errors import ServiceError
from service.evaluation import DataError, depth_frames

KEPT_INTERVALS = ("delta1_80m", "abs_rel_80m", "delta1_50m", "abs_rel_50m")
FRAMES = 10

Findings = dict[str, dict[str, Any]]  # model name -> the content of OUT/<name>.json


def depth_cards(zoo: Path) -> list[Card]:
    """The last version of every depth model (in the service's order of versions), full-precision models first.

    Raises:
        ValueError: there is no depth model, or the twin of a binary one is missing.
    """
    cards = [Card.load(path.parent) for path in sorted(zoo.glob("*/*/card.yaml"))]
    cards.sort(key=lambda card: version_key(card.version))
    latest = {card.name: card for card in cards if card.task == "depth"}
    if not latest:
        raise ValueError(f"{zoo} has no depth model: expected <name>/<version>/card.yaml")
    for card in latest.values():
        if card.full is not None and card.full not in latest:
            raise ValueError(f"{zoo} lacks {card.full}, the full-precision twin of {card.name}: export it too")
    return sorted(latest.values(), key=lambda card: (card.precision != "full", card.name))


def measure(cards: list[Card], data: Path, now: Occasion) -> Findings:
    """Evaluate every variant of every model as the service runs it, and count the readings of the data.

    Raises:
        ValueError: an evaluation failed.
    """
    found: Findings = {}
    for card in cards:
        printed: dict[str, dict[str, Any]] = {
            variant: evaluate(card.directory, variant, data, *_against(variant), occasion=now)
            for variant in card.variants
        }
        found[card.name] = {"dataset": now.dataset, "sha256": card.sha256, "evaluations": _trimmed(printed)}
        found[card.name]["readings"] = count(now.file("depth"), card.name)
        if card.full is not None:
            paired = printed["binary"]["paired"]
            differences = {
                name: paired["differences"][name] for name in KEPT_INTERVALS if name in paired["differences"]
            }
            found[card.name]["paired"] = {
                "against": paired["against"],
                "means": paired["means"],
                "differences": differences,
            }
    return found


def _against(variant: str) -> list[str]:
    return ["--against", "full"] if variant == "binary" else []


def _trimmed(printed: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Keep what the pages need: for images and intervals, only the headline metrics."""
    kept = {}
    for variant, one in printed.items():
        images = [
            {key: image[key] for key in ("file", "points", "scale")}
            | {name: image["errors"].get(name) for name in ("abs_rel_80m", "delta1_80m")}
            for image in one["images"]
        ]
        intervals = {name: one["intervals"][name] for name in KEPT_INTERVALS if name in one["intervals"]}
        rest = {key: value for key, value in one.items() if key not in ("images", "intervals", "paired")}
        kept[variant] = rest | {"intervals": intervals, "images": images}
    return kept


def row_of(card: Card, findings: dict[str, Any]) -> dict[str, Any]:
    """A network's row in the table that compares with the paper."""
    found = findings["evaluations"][card.variants[0]]
    difference = findings["paired"]["differences"]["delta1_80m"] if "paired" in findings else None
    names = ("delta1_80m", "delta1_50m", "abs_rel_80m")
    return {
        "name": card.name,
        "label": label_of(card),
        "method": card.network.method,
        "n": found["n"],
        **{name: found.get(name, float("nan")) for name in names},
        "difference": difference,
    }


def floor_of(train: Path | None, data: Path, dataset: str, kept: list[Path]) -> dict[str, Any] | None:
    """The per-row baseline on the data: computed from ``train`` if given, else as stored for the same data, else None.

    Raises:
        DataError: the training drive is unsuitable.
    """
    if train is not None:
        return {"drive": train.name, **floor(train, data)}
    pages = (json.loads(path.read_text()) for path in kept if path.is_file())
    return next((page["floor"] for page in pages if page["dataset"] == dataset and page.get("floor")), None)


def complete(cards: list[Card], found: Findings, kept: dict[str, list[dict[str, Any]]] | None = None) -> None:
    """Add to each model the table rows and plot names that a network shares with its binary versions.

    Args:
        cards: the measured models.
        found: what was measured of each; completed in place.
        kept: rows of other networks, by the full-precision network that they were compared with (`kept_rows`).
    """
    for full in (card for card in cards if card.precision == "full"):
        members = [full, *(card for card in cards if card.full == full.name)]
        group = [row_of(card, found[card.name]) for card in members]
        methods = {row["method"] for row in group}
        group += [row for row in (kept or {}).get(full.name, []) if row["method"] not in methods]
        for card in members:
            found[card.name] |= {"group": group, "figures": full.name}


def kept_rows(cards: list[Card], out: Path, dataset: str) -> dict[str, list[dict[str, Any]]]:
    """Stored table rows by full-precision network, where it and the data are still those of the comparison.

    A network that is compared but not shipped, such as a BinaryNet, keeps its row when the others are measured again.
    """
    kept = {}
    for card in (card for card in cards if card.precision == "full" and (out / f"{card.name}.json").is_file()):
        stored = json.loads((out / f"{card.name}.json").read_text())
        if (stored["sha256"], stored["dataset"]) == (card.sha256, dataset):
            kept[card.name] = stored["group"]
    return kept


def draw_all(cards: list[Card], found: Findings, out: Path) -> None:
    """Draw the plots and the synthetic scene for each full-precision network with its binary versions."""
    rgb, depth_m = scene.draw()
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "PNG")
    for full in (card for card in cards if card.precision == "full"):
        members = [full, *(card for card in cards if card.full == full.name)]
        evaluations = {label_of(card): found[card.name]["evaluations"][card.variants[0]] for card in members}
        save(by_distance(evaluations), out / f"{full.name}-distance.svg")
        save(by_frame(evaluations), out / f"{full.name}-frames.svg")
        maps = {one.label: one.depth(stream.getvalue(), scene.FX_PX) for one in networks_of(members)}
        drawing = View(rgb, np.asarray(scene.scan(depth_m)), maps)
        title = "a scanner would measure"
        save_picture(picture(drawing, "input: a drawing", title), out / f"{full.name}-drawing.jpg")


def networks_of(cards: list[Card]) -> list[Network]:
    """Each model in its default variant."""
    return [Network(label_of(card), card, card.variants[0]) for card in cards]


def draw_frames(cards: list[Card], data: Path, folder: Path, count: int) -> None:
    """Draw ``count`` frames of the drive, evenly spaced.

    Raises:
        ValueError: the folder is under version control.
    """
    refuse_tracked(folder)
    frames = depth_frames(data)
    networks = networks_of(cards)
    for index in np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int):
        frame = frames[index]
        save_picture(picture(view_of(frame, networks), frame.path.name), folder / f"{frame.path.stem}.jpg")


def refuse_tracked(folder: Path) -> None:
    """Keep pictures of the data out of the repository.

    Raises:
        ValueError: the folder is in this checkout and git does not ignore it.
    """
    resolved = folder.resolve()
    if not resolved.is_relative_to(ROOT):
        return
    ignored = subprocess.run(["git", "-C", str(ROOT), "check-ignore", "-q", str(resolved / "x.jpg")], check=False)  # noqa: S603, S607  # fixed words
    if ignored.returncode != 0:
        raise ValueError(
            f"--pictures {folder} is in the repository, but pictures of the data must not be redistributed: use "
            "another folder"
        )


def machine() -> dict[str, Any]:
    """The hardware and software that the figures were measured on."""
    packages = {name: importlib.metadata.version(name) for name in ("bireal-serve", "onnxruntime", "numpy", "pillow")}
    return {
        "hardware": hardware(),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **packages},
    }


@command_line.expects(DataError, OSError, ServiceError, ValueError)
def main() -> int:
    """Evaluate, store the results, draw, and write the pages."""
    parser = command_line.Parser(prog="python -m models.eval.depth_page", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="packed drive; without it the pages are rewritten from stored results"
    )
    parser.add_argument("--models", type=Path, default=ROOT / "models" / "zoo", help="folder of models")
    parser.add_argument("--floor", type=Path, metavar="DRIVE", help="training drive for the row-median baseline")
    parser.add_argument("--dataset", default="dev", help="name of the data on the pages (default dev)")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of frames, outside the repository")
    parser.add_argument(
        "--frames", type=command_line.count, default=FRAMES, help=f"number of pictures (default {FRAMES})"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "models", help="output folder")
    args = parser.parse_args()
    if args.pictures is not None and args.data is None:
        parser.error("--pictures needs --data DRIVE, the drive whose frames it draws")
    if args.pictures is not None:
        refuse_tracked(args.pictures)
    cards = depth_cards(args.models)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.data is not None:
        now = occasion("models.eval.depth_page", args.dataset, args.out)
        found = measure(cards, args.data, now)
        facts = machine()
        complete(cards, found, kept_rows(cards, args.out, args.dataset))
        least = floor_of(args.floor, args.data, args.dataset, [args.out / f"{card.name}.json" for card in cards])
        for name, findings in found.items():
            findings |= {"date": now.date[:10], "machine": facts, "floor": least}
            (args.out / f"{name}.json").write_text(json.dumps(findings, indent=1) + "\n")
    again = "models.eval.depth_page --data DRIVE"
    found = {card.name: stored_results(card, args.out / f"{card.name}.json", again) for card in cards}
    draw_all(cards, found, args.out)
    for card in cards:
        (args.out / f"{card.name}.md").write_text(page(card, found[card.name]))
    if args.pictures is not None:
        draw_frames(cards, args.data, args.pictures, args.frames)
    return 0


if __name__ == "__main__":
    sys.exit(main())
