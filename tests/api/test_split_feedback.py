"""Feedback on a split: arms with images of their own, of whose subjects the first label counts."""

import io

import numpy as np
import pytest

from tests.api.conftest import running
from tests.api.test_depth_feedback import npy, road, tell_depth
from tests.api.test_experiments import OPTIONS, ask, declare, experiment, found_when
from tests.api.test_feedback import colour, tell, token_for

pytestmark = pytest.mark.anyio


async def test_a_split_is_judged_arm_by_arm(anyio_backend, zoo, tmp_path, op):
    file = declare(tmp_path, experiment("split"))
    async with running(zoo, experiments_file=file, **OPTIONS) as client:
        for _ in range(60):
            await tell(client, await token_for(client, colour("red"), "/classify"), 0)
        found = await found_when(
            client, "split-test", lambda found: sum(arm["labelled"] for arm in found["results"]["arms"]) == 60
        )
        full, binary = found["results"]["arms"]
        assert full["accuracy"]["estimate"] == 1
        assert binary["accuracy"]["estimate"] in (0, 1), "one picture, so always the same answer"
        assert found["results"]["labelled_pairs"] is None
        assert 0 <= found["results"]["evidence"]["p_value"] <= 1
        assert [full["counted"], binary["counted"]] == [full["labelled"], binary["labelled"]], "each its own subject"


async def test_of_a_subject_in_a_split_the_first_label_counts(anyio_backend, zoo, tmp_path, op):
    """Cameras send many pictures each, and without the header the pictures of one request are one subject's."""
    file = declare(tmp_path, experiment("split"))
    async with running(zoo, experiments_file=file, **OPTIONS) as client:
        for number in range(40):
            subject = {"x-bireal-subject": f"camera-{number % 8}"}
            token = (await ask(client, colour("red"), **subject)).json()["feedback_token"]
            assert (await tell(client, token, 0)).status_code == 201
        files = [("file", (f"{name}.png", colour(name))) for name in ("red", "lime", "blue")]
        for answer in (await client.post("/classify", files=files)).json()["results"]:
            await tell(client, answer["feedback_token"], 0)
        found = await found_when(
            client, "split-test", lambda found: sum(arm["labelled"] for arm in found["results"]["arms"]) == 43
        )
        assert sum(arm["counted"] for arm in found["results"]["arms"]) == 9
        reader = client.app.state.services.experimentation.tokens
        assert "camera" not in str(reader.read(token))


async def test_of_a_subjects_depth_maps_in_a_split_the_first_counts(anyio_backend, zoo, tmp_path, op):
    declared = {**experiment("split"), "task": "depth", "model": "tiny-bireal-depth"}
    async with running(zoo, experiments_file=declare(tmp_path, declared), **OPTIONS) as client:
        for _ in range(3):
            path = "/depth?model=tiny-bireal-depth&size=original&format=npy"
            answer = await ask(client, road(), path, **{"x-bireal-subject": "camera"})
            token, map_m = answer.headers["x-bireal-feedback-token"], np.load(io.BytesIO(answer.content))
            assert (await tell_depth(client, token, npy(map_m))).status_code == 201
        found = await found_when(
            client, "split-test", lambda found: sum(arm["labelled"] for arm in found["results"]["arms"]) == 3
        )
        assert sum(arm["counted"] for arm in found["results"]["arms"]) == 1
