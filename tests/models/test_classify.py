"""Classification: how answers are counted, and at which sizes images are decoded, cut and evaluated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.arch import ArchConfig
from models.data.folder import ImageSet, load_split
from models.data.normalise import normalise
from models.eval import calibration, resolution
from models.eval.calibration import logits_of
from models.eval.held_out import Trained
from models.train.classify import ClassifyTask, accuracy, check_classes
from models.train.recipes import RECIPES
from service.imaging import decode
from service.tasks import CLASSIFY
from tests.cards import classify_card


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 24 images of 32x32."""
    root = tmp_path_factory.mktemp("photos")
    wnids = [f"n0000000{i}" for i in range(4)]
    names = [{"index": i, "wnid": wnid, "name": f"kind {i}"} for i, wnid in enumerate(wnids)]
    (root / "small_classes.json").write_text(json.dumps(names))
    rng = np.random.default_rng(0)
    for wnid in wnids:
        folder = root / "train" / wnid
        folder.mkdir(parents=True)
        for i in range(24):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{i:02d}.png")
    return root


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_network_that_tells_nothing_apart_is_never_right(photos: Path, value: float) -> None:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 6), value)

    assert accuracy(Constant(), load_split(photos, "train", 32)) == {"top1": 0.0, "top5": 0.0}


def test_the_first_and_the_first_five_are_counted(photos: Path) -> None:
    class Same(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 6.0, 5.0, 4.0, 3.0, 2.0]]).expand(len(x), 6)

    photos_in_memory = load_split(photos, "train", 32)
    found = accuracy(Same(1, 1), photos_in_memory)
    with pytest.raises(ValueError, match="has 3 classes, but the data have 4"):
        accuracy(
            torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.BatchNorm1d(3)),
            photos_in_memory,
        )
    assert found == {"top1": 0.25, "top5": 0.75}, "of four classes the second is first, and the first is sixth"


class Ramp:
    """Files of one picture: red is 0 to 255 from left to right, green from top to bottom."""

    def __init__(self, root: Path, width: int, height: int, count: int) -> None:
        self.width, self.height = width, height
        (root / "classes.json").write_text('[{"index": 0, "wnid": "n0", "name": "ramps"}]')
        (root / "train" / "n0").mkdir(parents=True)
        picture = np.zeros((height, width, 3), np.uint8)
        picture[..., 0] = np.linspace(0, 255, width).round()
        picture[..., 1] = np.linspace(0, 255, height).round()[:, None]
        for i in range(count):
            Image.fromarray(picture).save(root / "train" / "n0" / f"{i:02d}.png")

    def crops(self, images: torch.Tensor) -> list[tuple[float, float, float, float, bool]]:
        """Left, top, width and height in pixels of the picture, and whether it is mirrored, of images [B,3,S,S]."""
        found = []
        for image in images:
            mirrored = bool(image[0, 0, 0] > image[0, 0, -1])
            red, green = (image.flip(2) if mirrored else image)[:2]
            size = image.shape[-1]
            # the inner pixels are read, because the outermost are blurred by the picture's border
            across = (red[:, 1:-1].mean(0) / 255 * (self.width - 1)).numpy()
            down = (green[1:-1].mean(1) / 255 * (self.height - 1)).numpy()
            wide, high = (float((line[-1] - line[0]) / (size - 3)) for line in (across, down))
            left, top = (line[0] + 0.5 - 1.5 * step for line, step in ((across, wide), (down, high)))
            found.append((float(left), float(top), wide * size, high * size, mirrored))
        return found


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("paper-bireal18-imagenet", (256, 256)),
        ("paper-bireal34-imagenet", (256, 256)),
        ("paper-bireal50-imagenet", (256, 480)),
        ("paper-bireal152-imagenet", (256, 480)),
        ("paper-real18-imagenet", (256, 480)),
    ],
)
def test_the_papers_crops_are_224_pixels_of_a_shorter_side(name: str, sides: tuple[int, int], tmp_path: Path) -> None:
    """Sec. 4.1 and 4.3: the aspect is kept, crops lie anywhere in the image, and half of them are mirrored."""
    ramp = Ramp(tmp_path, width=600, height=400, count=26)
    recipe = replace(RECIPES[name], batch=24, hold_out_per_class=2)
    task = ClassifyTask(recipe, tmp_path)
    images, labels = next(task.batches(recipe.phases[0], 0, 0))
    assert (images.shape, labels.shape) == ((24, 3, 224, 224), (24,))
    crops = ramp.crops(images)
    for left, top, width, height, _ in crops:
        # 255 levels on 600 pixels: an end is known to 1.2 pixels
        assert width == pytest.approx(height, abs=5), "not squashed"
        assert 224 / sides[1] * 400 - 3 <= width <= 224 / sides[0] * 400 + 3
        assert -3 <= left <= 600 - width + 3
        assert -3 <= top <= 400 - height + 3
    lefts, tops, widths, _, mirrored = zip(*crops, strict=True)
    assert max(lefts) - min(lefts) > 0.5 * (600 - max(widths)), "from the left edge to the right"
    assert max(tops) - min(tops) > 0.5 * (400 - max(widths))
    assert (max(widths) - min(widths) > 80) == (sides[0] < sides[1])
    assert 4 <= sum(mirrored) <= 20
    assert not torch.equal(images, next(task.batches(recipe.phases[0], 1, 0))[0])


def test_the_papers_crops_depend_on_seed_epoch_and_step_alone(photos: Path) -> None:
    recipe = replace(RECIPES["paper-bireal50-imagenet"], batch=16, hold_out_per_class=4)
    recipe = replace(recipe, size=32, shorter_sides=(36, 60))
    task = ClassifyTask(recipe, photos)
    whole = list(task.batches(recipe.phases[0], 3, 0))
    rest = list(task.batches(recipe.phases[0], 3, 2))
    assert [len(whole), len(rest)] == [5, 3]
    assert all(torch.equal(a, b) for pair in zip(whole[2:], rest, strict=True) for a, b in zip(*pair, strict=True))
    small = replace(recipe.phases[0], size=16)
    assert next(task.batches(small, 0, 0))[0].shape == (16, 3, 16, 16)
    with pytest.raises(ValueError, match="shorter sides 30 to 60: must be at least 32, the crop"):
        next(ClassifyTask(replace(recipe, shorter_sides=(30, 60)), photos).batches(recipe.phases[0], 0, 0))


def test_the_papers_images_are_judged_at_224_pixels(photos: Path) -> None:
    recipe = replace(RECIPES["paper-real18-imagenet"], batch=16, hold_out_per_class=8)
    task = ClassifyTask(recipe, photos)
    seen = []

    class Watched(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape[1:]))
            return torch.cat([x.mean((2, 3)), x.mean((2, 3))], 1)

    task.evaluate(Watched(1, 1))
    assert set(seen) == {(3, 224, 224)}


def test_held_out_images_are_prepared_as_the_service_prepares_them(tmp_path: Path) -> None:
    """Where the service crops the centre, choosing and calibrating on squashed images would judge another input."""
    (tmp_path / "classes.json").write_text('[{"index": 0, "wnid": "n0", "name": "noise"}]')
    (tmp_path / "train" / "n0").mkdir(parents=True)
    sizes = [(60, 40), (40, 60), (300, 256), (64, 64)]
    for i, (width, height) in enumerate(sizes):
        noise = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "train" / "n0" / f"{i}.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "train" / "n0" / "-.png")  # the first, for training
    recipe = replace(RECIPES["paper-real18-imagenet"], hold_out_per_class=len(sizes), batch=1)
    task = ClassifyTask(recipe, tmp_path)
    run = Trained(torch.nn.Identity(), recipe, task.held_out, tmp_path)
    for size, shorter in ((224, 256), (112, 128)):
        card = classify_card(input={"height": size, "width": size, "resize_shorter": shorter})
        for i, (ours, folder_size) in enumerate(zip(run.served(size).images[:], sizes, strict=True)):
            picture = decode((tmp_path / "train" / "n0" / f"{i}.png").read_bytes())
            served = CLASSIFY.preprocess(picture, card).tensor
            np.testing.assert_array_equal(ours, served, f"{folder_size} at {size}")
    seen = []

    class Watched(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return torch.zeros(len(x), 1)

    task.evaluate(Watched(1, 1))
    logits_of(Watched(1, 1), run.served(224), 224)
    cropped = normalise(torch.from_numpy(run.served(224).images[:]).permute(0, 3, 1, 2).float())
    assert torch.equal(seen[0], cropped)
    assert torch.equal(seen[1], cropped)
    squared = replace(recipe, resize_shorter=0, size=96)
    assert ClassifyTask(squared, tmp_path).held_out.images[:].shape[1] == 96, "others keep what training decodes"


def test_calibration_and_input_sizes_are_found_on_what_is_served(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(RECIPES["paper-real18-imagenet"], hold_out_per_class=2, batch=16)
    asked = []

    class Watched(Trained):
        def served(self, size: int) -> ImageSet:
            asked.append(size)
            return super().served(size)

    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    run = Watched(network, recipe, ClassifyTask(recipe, photos).held_out, photos)
    for module, options in ((calibration, []), (resolution, ["--sizes", "64", "96"])):
        monkeypatch.setattr(module, "trained", lambda *_: run)
        monkeypatch.setattr("sys.argv", ["models.eval", "best.pt", "--data", str(photos), *options])
        assert module.main() == 0
    assert asked == [224, 64, 96]


def test_images_that_do_not_fill_a_batch_are_refused(photos: Path) -> None:
    """They trained nothing, and the run reported success."""
    recipe = replace(RECIPES["resnet18-tiny100"], hold_out_per_class=20, batch=16)
    assert ClassifyTask(recipe, photos).steps_per_epoch() == 1
    with pytest.raises(ValueError, match=r"16 training images do not fill one batch of 17 .*\(80 here\)"):
        ClassifyTask(replace(recipe, batch=17), photos)


def test_data_whose_classes_the_network_cannot_learn_are_refused(photos: Path) -> None:
    """The run trained to its end, and its checkpoint could not be exported; or a class was never seen."""
    fitting = replace(RECIPES["resnet18-tiny100"], arch=ArchConfig(num_classes=4), hold_out_per_class=20, batch=16)
    train = ClassifyTask(fitting, photos).train
    check_classes(fitting, photos, train)
    for outputs in (3, 100):
        recipe = replace(fitting, arch=ArchConfig(num_classes=outputs))
        with pytest.raises(ValueError, match=rf"has 4 classes .* the network of recipe resnet18-tiny100 has {outputs}"):
            check_classes(recipe, photos, train)
    with pytest.raises(ValueError, match=r"n00000002 has no more than the 20 images that .* holds out"):
        check_classes(fitting, photos, train.subset(np.flatnonzero(train.labels != 2)))
