"""The task of a command: that of `--task`, else that of the named model; and the file that `predict` writes."""

import pytest

from service.cli.main import main
from tests.cli.said import error_of
from tests.tiny_zoo import FAR_M

pytestmark = pytest.mark.usefixtures("tiny_models")


def test_the_model_says_which_task(run, road, tmp_path):
    picture = road / "drive_0001" / "left" / "0.JPG"
    there = tmp_path / "map.npy"
    named = ("--model", "tiny-ramp")
    document, said = run("predict", picture, *named, "--variant", "full", "--fx", 50, "--output", there)
    assert document["max_m"] == pytest.approx(FAR_M)
    assert said == f"Wrote {there}\n"
    document, _ = run("compare", picture, *named, "--a", "full")
    assert document["within_1_25"] == 1
    document, _ = run("compare", picture.parent, *named, "--a", "full")
    assert (document["task"], document["n"]) == ("depth", 2)
    document, _ = run("compare", road, "--model", "tiny-colours", "--a", "full")
    assert document["task"] == "classify"


def test_predict_says_which_file_it_wrote(capsys, road, tmp_path):
    picture = road / "drive_0001" / "left" / "0.JPG"
    arguments = ["predict", picture, "--model", "tiny-ramp", "--variant", "full", "--output", tmp_path / "d.png"]
    assert main([str(argument) for argument in arguments]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[1:] == [f"Wrote {tmp_path / 'd.png'}"]
    assert output.err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "--model", "none", "--output", "a.png"], "no model 'none'"),
        (["predict", "--model", "tiny-ramp", "--top-k", "1"], "classification only"),
        (["predict", "--task", "classify", "--model", "tiny-ramp"], "is for the task 'depth'"),
        (["compare", "--model", "none", "--fx", "100"], "no model 'none'"),
        (["compare", "--model", "tiny-colours", "--fx", "100"], "depth maps only"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_do_not_fit_the_task_of_the_model(capsys, road, arguments, said):
    picture = road / "drive_0001" / "left" / "0.JPG"
    assert said in error_of(capsys, arguments[0], picture, *arguments[1:])
