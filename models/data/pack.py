"""``python -m models.data.pack raw|kitti2015 ROOT --out DIR``: convert KITTI as published to the layout we read.

    DIR/<drive>/left/<index>.png  right/<index>.png  lidar_depth/<index>.png or disp_noc_0/<index>.png  calib.json

Training (`models.data.kitti`), ``python -m service evaluate`` and ``compare`` read this layout. Laser points are
projected once, here. Images are copied unchanged unless ``--jpeg`` re-encodes them. Existing frames are skipped, so an
interrupted run can simply be repeated. Prints the counts as JSON; exit code 1 means that frames of a list are missing
from ROOT.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from models.command_line import Parser, expects, show
from models.data.kitti_calibration import LEFT, RIGHT, Calibration, read_calibration
from models.data.kitti_raw import FrameId, RawFrame, RawKitti, read_split
from models.data.velodyne import write_depth_png
from service.evaluation import DataError


def pack_raw(root: Path, out: Path, frames: list[FrameId], annotated: Path | None, jpeg: int | None) -> dict[str, int]:
    """Pack frames of KITTI raw.

    Entries of the left and right camera name the same pair, which is packed once with the left camera's ground truth.

    Args:
        root: the folder that holds the dates.
        out: output folder, with one folder per drive, named without ``_sync``.
        frames: the frames to pack.
        annotated: KITTI's accumulated and filtered ground truth (``<train|val>/<drive>/proj_depth/...``), used instead
            of single scans.
        jpeg: JPEG quality of re-encoded images; None copies the files.

    Returns:
        Counts: ``packed``, ``there_already``, ``missing`` (no left image in ``root``), ``without_truth``,
        ``without_right``.

    Raises:
        DataError: a calibration, image or scan is not as published.
    """
    raw = RawKitti(root)
    counts = dict.fromkeys(("packed", "there_already", "missing", "without_truth", "without_right"), 0)
    pairs = sorted({replace(frame, camera=LEFT) for frame in frames})
    for identity in tqdm(pairs, unit="frame", mininterval=2.0):
        frame = raw.frame(identity)
        target = out / identity.drive.removesuffix("_sync")
        left = frame.image_path(LEFT)
        if left is None:
            counts["missing"] += 1
            continue
        if any((target / "left").glob(f"{identity.name}.*")):
            counts["there_already"] += 1
            continue
        frame.check_size(left)
        for name in ("left", "right", "lidar_depth"):
            (target / name).mkdir(parents=True, exist_ok=True)
        if not (target / "calib.json").is_file():
            frame.calibration.write(target)
        counts["without_truth"] += not _write_truth(frame, target / "lidar_depth" / f"{identity.name}.png", annotated)
        right = frame.image_path(RIGHT)
        if right is None:
            counts["without_right"] += 1
        else:
            _write_image(right, target / "right" / right.name, jpeg)
        _write_image(left, target / "left" / left.name, jpeg)  # last: its presence marks the frame as complete
        counts["packed"] += 1
    return counts


def _write_truth(frame: RawFrame, path: Path, annotated: Path | None) -> bool:
    """Write a frame's ground truth; False if there is none."""
    if annotated is not None:
        place = Path(frame.id.drive, "proj_depth", "groundtruth", "image_02", f"{frame.id.name}.png")
        found = next((file for part in ("train", "val") if (file := annotated / part / place).is_file()), None)
        if found is not None:
            shutil.copyfile(found, path)
        return found is not None
    if frame.scan_path is None:
        return False
    write_depth_png(path, frame.depth(LEFT))
    return True


def _write_image(source: Path, target: Path, jpeg: int | None) -> None:
    """Write an image, under its name only once it is complete: a frame with a left image is not packed again."""
    part = target.parent.parent / f"{target.stem}.part"  # not in its folder, where it would pass for an image
    if jpeg is None:
        shutil.copyfile(source, part)
    else:
        target = target.with_suffix(".jpg")
        with Image.open(source) as image:
            image.convert("RGB").save(part, "JPEG", quality=jpeg, subsampling=0)
    part.replace(target)


def pack_kitti2015(root: Path, out: Path, jpeg: int | None) -> dict[str, int]:
    """Pack the training scenes of KITTI 2015 (``training/image_2, image_3, disp_noc_0, calib_cam_to_cam``).

    The scenes were recorded on several days. Each calibration gets its own folder with one ``calib.json``.

    Args:
        root: the folder that holds ``training``.
        out: output folder, with folders ``kitti2015_<width>x<height>``; further calibrations of the same size get a
            letter.
        jpeg: as for `pack_raw`.

    Returns:
        Counts: ``packed`` and ``without_right``.

    Raises:
        DataError: there are no scenes, or a scene's calibration is missing.
    """
    training = root / "training" if (root / "training").is_dir() else root
    truths = sorted((training / "disp_noc_0").glob("*_10.png"))
    if not truths:
        raise DataError(f"{root} has no training/disp_noc_0/*_10.png: unpack KITTI's data_scene_flow.zip there")
    folders: dict[tuple[float, ...], Path] = {}
    counts = {"packed": 0, "without_right": 0}
    for truth in tqdm(truths, unit="scene", mininterval=2.0):
        calibration = read_calibration(training / "calib_cam_to_cam" / f"{truth.stem.removesuffix('_10')}.txt")
        target = _camera_folder(folders, calibration, out)
        left, right = (training / camera / truth.name for camera in ("image_2", "image_3"))
        if not left.is_file():
            raise DataError(f"{left} is missing")
        if right.is_file():
            _write_image(right, target / "right" / right.name, jpeg)
        else:
            counts["without_right"] += 1
        shutil.copyfile(truth, target / "disp_noc_0" / truth.name)
        _write_image(left, target / "left" / left.name, jpeg)
        counts["packed"] += 1
    return counts


def _camera_folder(folders: dict[tuple[float, ...], Path], calibration: Calibration, out: Path) -> Path:
    """The folder of a calibration, created when it is first seen."""
    key = (calibration.width, calibration.height, calibration.fx_px, round(calibration.baseline_m, 6))
    if key not in folders:
        alike = sum(other[:2] == key[:2] for other in folders)
        letter = chr(ord("a") + alike) if alike else ""
        folders[key] = out / f"kitti2015_{calibration.width}x{calibration.height}{letter}"
        for name in ("left", "right", "disp_noc_0"):
            (folders[key] / name).mkdir(parents=True, exist_ok=True)
        calibration.write(folders[key])
    return folders[key]


def _chosen(args: argparse.Namespace) -> list[FrameId]:
    if args.split is not None:
        return read_split(args.split)
    raw = RawKitti(args.root)
    if not args.drive:
        return raw.frames()
    drives = [tuple(drive.strip("/").split("/")) for drive in args.drive]
    if any(len(drive) != 2 for drive in drives):
        raise DataError(f"--drive {' '.join(args.drive)}: give each drive as <date>/<drive>")
    return raw.frames([(drive[0], drive[1]) for drive in drives])


@expects(DataError, OSError)
def main() -> int:
    """Parse arguments, pack, print counts."""
    parser = Parser(prog="python -m models.data.pack", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    raw = kinds.add_parser("raw", help="drives of KITTI raw, synchronised and rectified")
    scenes = kinds.add_parser("kitti2015", help="the training scenes of KITTI 2015, with ground-truth disparity")
    for each in (raw, scenes):
        each.add_argument("root", type=Path, help="folder with KITTI's unpacked archives")
        each.add_argument("--out", type=Path, required=True, help="output folder")
        each.add_argument(
            "--jpeg", type=int, metavar="QUALITY", choices=range(1, 101), help="re-encode images as JPEG (1 to 100)"
        )
    which = raw.add_mutually_exclusive_group()
    which.add_argument("--split", type=Path, help="list of frames (Eigen, Zhou; .txt or .txt.gz); default: every frame")
    which.add_argument("--drive", nargs="+", metavar="DATE/DRIVE", help="pack only these drives")
    raw.add_argument("--annotated", type=Path, help="KITTI's annotated depth, used instead of single laser scans")
    args = parser.parse_args()
    if args.kind == "raw":
        counts = pack_raw(args.root, args.out, _chosen(args), args.annotated, args.jpeg)
    else:
        counts = pack_kitti2015(args.root, args.out, args.jpeg)
    show(json.dumps(counts))
    return 1 if counts.get("missing") else 0


if __name__ == "__main__":
    sys.exit(main())
