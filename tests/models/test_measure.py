"""The figures on a card are those of the version whose card it is."""

import numpy as np
import pytest
from onnx import numpy_helper
from PIL import Image

from models.export.measure import evaluate_model
from tests.tiny_zoo import COLOURS, colours_graph, write_model


@pytest.fixture
def two_versions(tmp_path):
    """Version 1 names colours, version 2 names each one wrongly; the label `default` is on version 1."""
    write_model(tmp_path, "tiny-colours", colours_graph(), task="classify")
    wrong = colours_graph()
    for tensor in wrong.graph.initializer:
        if tensor.name == "weight":
            turned = np.roll(numpy_helper.to_array(tensor), 1, axis=1)
            tensor.CopyFrom(numpy_helper.from_array(turned, "weight"))
    write_model(tmp_path, "tiny-colours", wrong, version="2", task="classify")
    (tmp_path / "tiny-colours" / "labels.yaml").write_text('default: "1"')
    return tmp_path / "tiny-colours"


@pytest.fixture
def pictures(tmp_path):
    for (wnid, _), colour in zip(COLOURS, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
        (tmp_path / "pictures" / wnid).mkdir(parents=True)
        Image.new("RGB", (40, 40), colour).save(tmp_path / "pictures" / wnid / "a.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize(("version", "top1"), [("1", 1.0), ("2", 0.0)])
def test_the_version_of_the_folder_is_evaluated(two_versions, pictures, version, top1):
    found = evaluate_model(two_versions / version, "full", pictures, "colours")
    assert (found["dataset"], found["variant"], found["n"]) == ("colours", "full", 3)
    assert found["values"]["top1"] == top1


def test_a_failure_is_passed_on(two_versions, tmp_path):
    with pytest.raises(ValueError, match=r"tiny-colours@1, full: .*is not a folder"):
        evaluate_model(two_versions / "1", "full", tmp_path / "nothing", "none")
