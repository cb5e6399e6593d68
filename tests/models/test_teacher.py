"""The classifier's teacher: what it refuses to continue from, and to learn from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.data.folder import ClassName, ImageSet
from models.train.teacher import BATCH, adapt, resume


def optimizer_of(network: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)


def test_an_interrupted_teacher_continues_from_its_file(tmp_path: Path) -> None:
    before, path = nn.Linear(3, 2), tmp_path / "teacher.pt"
    state = {"network": before.state_dict(), "optimizer": optimizer_of(before).state_dict(), "position": 7}
    torch.save(state, path)
    now = nn.Linear(3, 2)
    assert resume(path, now, optimizer_of(now)) == 7
    assert torch.equal(now.weight, before.weight)


@pytest.mark.parametrize("case", ["damaged", "other file", "other classes"])
def test_a_teacher_that_cannot_be_continued_is_named_with_a_remedy(case: str, tmp_path: Path) -> None:
    path, other = tmp_path / "teacher.pt", nn.Linear(3, 5)
    state = {"network": other.state_dict(), "optimizer": optimizer_of(other).state_dict(), "position": 7}
    torch.save(other.state_dict() if case == "other file" else state, path)
    if case == "damaged":
        path.write_bytes(path.read_bytes()[:-200])
    now = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"teacher\.pt .*(another --out|copy or download it again)"):
        resume(path, now, optimizer_of(now))


def test_fewer_images_than_a_batch_do_not_adapt_the_teacher(tmp_path: Path) -> None:
    """It labelled them without having learned anything."""
    few = ImageSet(np.zeros((BATCH - 1, 8, 8, 3), np.uint8), np.zeros(BATCH - 1, np.int64), (ClassName("n0", "x"),))
    with pytest.raises(ValueError, match=rf"{BATCH - 1} training images are too few .* at least {BATCH}"):
        adapt(nn.Linear(1, 1), few, few, tmp_path)
