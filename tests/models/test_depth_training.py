"""Depth training: drives, the part that chooses, augmentation, the terms of the loss, learning."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.arch import build
from models.binarize.base import Phase
from models.data.kitti import FrameFile, downscale_disparity, hold_out_frames, load_drives
from models.train.depth import (
    FX_BASELINE,
    HOLD_OUT,
    DepthTask,
    smoothness,
    stereo_terms,
    warp_right,
    whole_frames,
)
from models.train.depth_augment import augment
from models.train.loop import run
from models.train.optim import learning_rate
from models.train.recipe import PhaseSpec
from models.train.recipes import RECIPES


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive of a textured wall, 12 px of native disparity away, with LiDAR on every fourth pixel."""
    root = tmp_path_factory.mktemp("kitti") / "train" / "wall"
    for name in ("left", "right", "lidar_depth"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(1)
    fx = 721.5377
    (root / "calib.json").write_text(json.dumps({"fx": fx, "baseline_m": 0.5327}))
    for i in range(12):
        texture = np.asarray(Image.fromarray(rng.integers(0, 256, (47, 160, 3), np.uint8)).resize((1280, 375)))
        Image.fromarray(texture[:, :1242]).save(root / "left" / f"{i:03d}.png")
        Image.fromarray(texture[:, 12 : 12 + 1242]).save(root / "right" / f"{i:03d}.png")
        depth = np.zeros((375, 1242), np.uint16)
        depth[::4, ::4] = round(fx * 0.5327 / 12 * 256)
        Image.fromarray(depth).save(root / "lidar_depth" / f"{i:03d}.png")
    return root


def test_frames_have_network_disparity(drive: Path) -> None:
    frames = load_drives(drive.parent)
    assert len(frames) == 12
    known = frames[0].disparity_px[frames[0].disparity_px > 0]
    assert known == pytest.approx(12 * 608 / 1242, rel=2e-3)
    assert pytest.approx(188.2, abs=0.05) == FX_BASELINE
    train_part, held_out = hold_out_frames(frames, {"wall": 3})
    assert (train_part, held_out) == (frames[:9], frames[9:])


@pytest.mark.parametrize(("count", "train", "held_out"), [(9, 9, 0), (12, 10, 1), (57, 47, 5), (154, 129, 15)])
def test_a_drive_without_a_word_gives_its_last_tenth_after_a_gap(count: int, train: int, held_out: int) -> None:
    frames = [FrameFile(Path(drive), Path(f"{i}")) for drive in "ab" for i in range(count)]
    kept, aside = hold_out_frames(frames, {})
    for number in range(2):
        drive = frames[number * count : (number + 1) * count]
        assert kept[number * train : (number + 1) * train] == drive[:train]
        assert aside[number * held_out : (number + 1) * held_out] == drive[count - held_out :]


def test_the_drives_of_the_shipped_networks_are_divided_as_their_cards_say() -> None:
    counts = {"2011_09_26_drive_0005": 154, "kitti2015": 29, "sfnd_2011_09_26": 39}
    frames = [FrameFile(Path(drive), Path(f"{i}")) for drive, count in counts.items() for i in range(count)]
    train, held_out = hold_out_frames(frames, HOLD_OUT)
    assert Counter(frame.drive for frame in held_out) == {
        "2011_09_26_drive_0005": 15,
        "kitti2015": 5,
    }
    assert len(train) == 222 - 20, "no frame is left out between the parts"


def test_the_folders_of_a_packed_drive_are_held_out_of_as_one() -> None:
    """`models.data.pack` writes a folder per camera; a tenth of each and a gap before it went before."""
    counts = {"kitti2015_1224x370": 30, "kitti2015_1242x375": 40, "kitti2015b": 20}
    frames = [FrameFile(Path(drive), Path(f"{i}")) for drive, count in counts.items() for i in range(count)]
    train, held_out = hold_out_frames(frames, HOLD_OUT)
    assert held_out == [*frames[65:70], *frames[88:]]
    assert train == [*frames[:65], *frames[70:86]]


def copy_of(drive: Path, folder: Path) -> Path:
    shutil.copytree(drive, folder / "train" / "wall")
    return folder


def test_frames_that_do_not_fit_into_memory_are_decoded_for_each_batch(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPES["resnet50-kitti-depth"], batch=3)
    in_memory = DepthTask(recipe, drive.parent.parent)
    monkeypatch.setattr("models.data.folder.MEMORY_SHARE", 0.0)
    on_demand = DepthTask(recipe, copy_of(drive, tmp_path))
    assert all(isinstance(frame, FrameFile) for frame in on_demand.train)
    batches = [next(task.batches(recipe.phases[0], 0, 2)) for task in (in_memory, on_demand)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*batches, strict=True))

    class Plane(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.disparity = nn.Parameter(torch.tensor(5.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.disparity.expand(len(x), 160, 608)

    assert on_demand.evaluate(Plane()) == in_memory.evaluate(Plane())
    shutil.rmtree(tmp_path / "train" / "wall" / "left")
    with pytest.raises(FileNotFoundError):
        next(on_demand.batches(recipe.phases[0], 0, 0))


def test_frames_that_do_not_fill_a_batch_are_refused(drive: Path) -> None:
    recipe = RECIPES["resnet50-kitti-depth"]
    recipe = replace(recipe, epoch_steps=0, depth=replace(recipe.depth, repeats=1))
    assert DepthTask(replace(recipe, batch=10), drive.parent.parent).steps_per_epoch() == 1
    with pytest.raises(ValueError, match=r"10 training frames \(1 more .* 10 times .* do not fill one batch of 11"):
        DepthTask(replace(recipe, batch=11), drive.parent.parent)


def test_a_file_beside_the_frames_is_none(drive: Path, tmp_path: Path) -> None:
    data = copy_of(drive, tmp_path)
    (data / "train" / "wall" / "left" / "notes.txt").write_text("taken in the rain")
    (data / "train" / "wall" / "left" / "999.png").mkdir()
    assert len(load_drives(data / "train")) == 12


def test_frames_without_points_choose_nothing(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.train.depth.HOLD_OUT", {"wall": 3})
    data = copy_of(drive, tmp_path)
    recipe = RECIPES["resnet50-kitti-depth"]
    lidar = data / "train" / "wall" / "lidar_depth"
    torch.manual_seed(0)
    network = build(replace(recipe.arch, width=0.25))
    whole = DepthTask(recipe, data).evaluate(network)
    (lidar / "010.png").unlink()
    found = DepthTask(recipe, data).evaluate(network)
    assert all(math.isfinite(value) for value in found.values())
    assert found != whole, "the mean is of the two others"
    for name in ("009", "011"):
        (lidar / f"{name}.png").unlink()
    with pytest.raises(ValueError, match="none of the held-out frames"):
        DepthTask(recipe, data)


def test_statistics_are_measured_on_whole_frames_that_are_not_held_out(
    drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.train.depth.HOLD_OUT", {"wall": 3})
    frames = {frame.left.tobytes() for frame in load_drives(drive.parent)[:9]}
    whole = whole_frames(drive.parent.parent, 100)
    assert whole.shape == (9, 3, 160, 608)
    assert {picture.permute(1, 2, 0).byte().numpy().tobytes() for picture in whole} == frames
    assert torch.equal(whole_frames(drive.parent.parent, 4), whole_frames(drive.parent.parent, 4))
    monkeypatch.setattr("models.train.depth.HOLD_OUT", {"wall": 12})
    with pytest.raises(FileNotFoundError, match=r"has no frame to train on \(12 are held out\): give longer drives"):
        whole_frames(drive.parent.parent, 4)


def test_the_nearest_point_wins_a_cell() -> None:
    native = np.zeros((320, 1216), np.float32)
    native[0, 0], native[1, 1] = 10.0, 40.0
    assert downscale_disparity(native)[0, 0] == 20.0


def test_warping_by_the_true_disparity_gives_the_left_image(drive: Path) -> None:
    frame = load_drives(drive.parent)[0]
    assert frame.right is not None
    left, right = (torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (frame.left, frame.right))
    errors = {}
    for scale in (0.0, 1.0, 2.0):
        disparity = torch.full((1, 160, 608), scale * 12 * 608 / 1242)
        warped, inside = warp_right(right, disparity)
        errors[scale] = ((warped - left).abs().mean(1) * inside).sum() / inside.sum()
    assert errors[1.0] < 0.25 * min(errors[0.0], errors[2.0])


def test_zoom_scales_disparity_and_a_mirrored_pair_swaps_or_gives_up_a_term(drive: Path) -> None:
    frames = load_drives(drive.parent)
    settings = replace(RECIPES["resnet50-kitti-depth-taught"].depth, max_zoom=1.25, colour=0.0)
    truth = 12 * 608 / 1242
    kinds = set()
    for seed in range(8):
        left, right, has_right, disparity = augment(frames[:4], settings, torch.Generator().manual_seed(seed))
        assert left.shape == right.shape == (4, 3, 160, 352)
        for i in range(4):
            known = disparity[i][disparity[i] > 0]
            if len(known):
                assert truth * 0.99 <= known.min()
                assert known.max() <= truth * 1.26
            kinds.add((bool(has_right[i]), len(known) > 0))
            if has_right[i] and not len(known):  # mirrored and swapped: still a pair, its right image to the right
                errors = []
                for zoom in (0.0, 1.0, 1.125, 1.25):
                    warped, inside = warp_right(right[i : i + 1], torch.full((1, 160, 352), zoom * truth))
                    errors.append(((warped - left[i : i + 1]).abs().mean(1) * inside).sum() / inside.sum())
                assert min(errors[1:]) < errors[0]
    assert kinds == {(True, True), (False, True), (True, False)}
    unswapped = [
        augment(frames[:4], replace(settings, swap=False), torch.Generator().manual_seed(seed))[2:] for seed in range(8)
    ]
    assert {bool(pair) for has_right, _ in unswapped for pair in has_right} == {True, False}
    assert all((disparity > 0).flatten(1).any(1).all() for _, disparity in unswapped), "each keeps its points"
    plain = augment(frames[:4], replace(settings, mirror=False), torch.Generator().manual_seed(1))
    assert plain[2].all()
    assert (plain[3] > 0).flatten(1).any(1).all()


def test_stereo_terms_are_least_at_the_true_disparity_at_every_scale(drive: Path) -> None:
    frame = load_drives(drive.parent)[0]
    assert frame.right is not None
    left, right = (torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (frame.left, frame.right))
    has_right = torch.tensor([True])
    truth = 12 * 608 / 1242
    for scales in (1, 3):
        terms = {
            factor: stereo_terms(left, right, has_right, torch.full((1, 160, 608), factor * truth), scales)
            for factor in (0.5, 1.0, 1.5)
        }
        assert terms[1.0][0] < 0.5 * min(terms[0.5][0], terms[1.5][0])
        assert terms[1.0][1] < 1e-5, "a plane is smooth"
    assert stereo_terms(left, right, ~has_right, torch.full((1, 160, 608), truth), 2)[0] == 0


def test_smoothness_forgives_steps_at_edges() -> None:
    depth = torch.zeros(1, 8, 8)
    depth[:, :, 4:] = 1.0
    flat, edge = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1.0
    assert smoothness(depth, edge) < 0.01 * smoothness(depth, flat)


def test_a_depth_network_learns_the_wall(drive: Path, tmp_path: Path) -> None:
    base = RECIPES["bireal50-kitti-depth"]
    arch = replace(base.arch, width=0.25)
    depth = replace(base.depth, crop_width=192, repeats=4, scales=1, max_zoom=1.25, mirror=False)
    phases = (PhaseSpec(Phase.BINARY, 2, 5e-3),)
    recipe = replace(base, arch=arch, phases=phases, batch=4, epoch_steps=0, bf16=False, depth=depth)
    torch.manual_seed(0)
    network = build(arch)
    task = DepthTask(recipe, drive.parent.parent)
    task.held_out = task.train[:2]
    before = task.evaluate(network)
    progress = run(recipe, task, network, tmp_path)
    assert progress.metrics["abs_rel"] < 0.7 * before["abs_rel"]


@pytest.mark.parametrize(
    ("folder", "times"), [("kitti2015", 3), ("kitti2015_1242x375", 3), ("kitti2015_1224x370b", 3), ("kitti2015b", 1)]
)
def test_scenes_of_many_places_count_more_in_every_folder_that_they_are_packed_to(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, times: int
) -> None:
    """`models.data.pack` writes a folder per camera, the shipped networks were trained on one without a size."""
    monkeypatch.setattr("models.train.depth.HOLD_OUT", {folder: 2})
    shutil.copytree(drive, tmp_path / "train" / folder)
    task = DepthTask(RECIPES["resnet50-kitti-depth"], tmp_path)
    assert Counter(task._pass.tolist()) == dict.fromkeys(range(10), times)


def test_the_papers_recipes_have_the_papers_hyper_parameters_and_do_not_augment(drive: Path) -> None:
    """Sec. 4.5: 60,000 steps of 10 images of 160x608, a rate of 0.001 that drops to a tenth after 30,000."""
    for network in ("resnet50", "bireal50", "binarynet50"):
        recipe = RECIPES[f"paper-{network}-kitti-depth"]
        assert (recipe.batch, recipe.arch.width, recipe.bf16) == (10, 1.0, False)
        assert (recipe.depth.lidar, recipe.depth.photometric, recipe.depth.scales) == (0.0, 1.0, 1)
        for phase in recipe.phases:
            steps = phase.epochs * recipe.epoch_steps
            assert (steps, phase.distill, phase.weight_decay) == (60_000, 0.0, 0.0)
            rates = [learning_rate(phase, step, steps, recipe.epoch_steps) for step in (0, 29_999, 30_000, 59_999)]
            assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    frames = load_drives(drive.parent)[:3]
    batch = augment(frames, recipe.depth, torch.Generator().manual_seed(0))
    for images, name in zip(batch, ("left", "right"), strict=False):
        whole = torch.stack([torch.from_numpy(getattr(frame, name)).permute(2, 0, 1) for frame in frames])
        assert torch.allclose(images, whole.float(), atol=1e-3)
    assert batch[2].all()
    assert torch.equal(batch[3], torch.stack([torch.from_numpy(frame.disparity_px) for frame in frames]))
