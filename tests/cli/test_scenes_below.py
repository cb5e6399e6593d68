"""Road scenes deeper in a folder than they are looked for, as an archive unpacks them, are not taken for photos."""

from pathlib import Path

import pytest

from tests.cli.said import error_of

pytestmark = pytest.mark.usefixtures("tiny_models")


@pytest.fixture
def unpacked(road) -> Path:
    """`<folder>/road/drive_0001/{left,lidar_depth}`: `road` is the folder to give."""
    folder = road.parent / "unpacked"
    folder.mkdir()
    road.rename(folder / "road")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "{unpacked}"],
        ["compare", "{unpacked}", "--task", "depth"],
        ["evaluate", "--data", "{unpacked}"],
        ["evaluate", "--data", "{unpacked}", "--against", "full"],
        ["evaluate", "--data", "{unpacked}", "--model", "tiny-ramp", "--variant", "full"],
        ["evaluate", "--data", "{unpacked}", "--model", "tiny-ramp@1", "--variant", "full", "--against", "full"],
        ["evaluate", "--data", "{unpacked}", "--variant", "full", "--against", "tiny-ramp:full"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("measured", ["lidar_depth", "disp_noc_0"])
def test_the_folder_to_give_is_named(capsys, unpacked, arguments, measured):
    drive = unpacked / "road" / "drive_0001"
    (drive / "lidar_depth").rename(drive / measured)
    said = error_of(capsys, *(part.format(unpacked=unpacked) for part in arguments))
    assert f"{unpacked} has no left/" in said
    assert f"{unpacked / 'road'}" in said
    assert str(drive) not in said, "all drives at once"


def test_each_folder_of_drives_is_named(capsys, unpacked):
    for part in ("left", "lidar_depth"):
        folder = unpacked / "other" / "deeper" / "drive_0002" / part
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(b"")
    said = error_of(capsys, "compare", unpacked)
    assert f"{unpacked / 'other' / 'deeper'} or {unpacked / 'road'}" in said


def test_the_folder_that_is_named_is_right(run, unpacked):
    document, _ = run("compare", unpacked / "road", "--a", "full", "--b", "full")
    assert (document["task"], document["labelled"]) == ("depth", 2)


def test_measured_depth_is_no_photo(run, unpacked):
    document, _ = run("compare", unpacked, "--task", "classify", "--a", "full", "--b", "full")
    assert (document["task"], document["n"]) == ("classify", 2), "left/ only"
    document, _ = run("predict", unpacked, "--variant", "full")
    assert document["count"] == 2


def test_the_model_says_which_task(run, road):
    """A folder that looks like road scenes, and a classifier for them: the error is about its folders."""
    document, _ = run("evaluate", "--data", road, "--model", "tiny-colours", "--variant", "full", code=2)
    assert "no class of tiny-colours" in document["detail"]
