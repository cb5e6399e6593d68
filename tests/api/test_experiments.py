"""Experiments over HTTP: who is answered by which arm, what is found, and how an administrator changes it."""

import asyncio
import json
import re
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from service.registry import Registry
from service.settings import load_settings
from tests.api.conftest import metric, running
from tests.pictures import encode
from tests.test_registry import without_op
from tests.waiting import until

pytestmark = pytest.mark.anyio

ADMIN = {"x-api-key": "an-admin-key-for-tests"}
OPTIONS = {"admin_keys": "an-admin-key-for-tests", "default_classify_model": "tiny-bireal"}


def declare(tmp_path, *experiments):
    """A file of experiments, as a setting."""
    file = tmp_path / "experiments.yaml"
    file.write_text(yaml.safe_dump({"experiments": list(experiments)}))
    return file


def experiment(mode, **options):
    return {
        "name": f"{mode}-test",
        "task": "classify",
        "mode": mode,
        "baseline": {"variant": "full"},
        "candidate": {"variant": "binary"},
        **options,
    }


def picture(seed=0, size=(40, 60)):
    return encode(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)), "PNG")


async def ask(client, content, path="/classify", **headers):
    answer = await client.post(path, content=content, headers={"content-type": "image/png", **headers})
    assert answer.status_code == 200, answer.text
    return answer


async def found_when(client, name, condition):
    """An experiment's results once they say so: they may be a second old."""
    async with asyncio.timeout(10):
        # Polled, as a client would: nothing in the answer tells when the next one is newer.
        while not condition(found := (await client.get(f"/experiments/{name}")).json()):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return found


async def test_a_split_is_sticky_says_its_arm_and_keeps_its_shares(anyio_backend, zoo, tmp_path, op):
    file = declare(tmp_path, experiment("split", weight=0.3))
    async with running(zoo, experiments_file=file, **OPTIONS) as client:
        arms = {}
        for _ in range(2):
            for number in range(60):
                answer = await ask(client, picture(number), **{"x-bireal-subject": f"camera-{number}"})
                part = answer.json()["experiment"]
                assert part == {"name": "split-test", "mode": "split", "arm": answer.json()["variant"]}
                assert (answer.headers["x-bireal-experiment"], answer.headers["x-bireal-arm"]) == (
                    "split-test",
                    answer.json()["variant"],
                )
                assert arms.setdefault(number, part["arm"]) == part["arm"], "the same subject gets the same arm"
        share = sum(arm == "binary" for arm in arms.values()) / len(arms)
        assert 0.1 < share < 0.5  # 18 expected of 60: 4.5 standard deviations either way
        answered = [2 * sum(arm == name for arm in arms.values()) for name in ("full", "binary")]
        await found_when(
            client, "split-test", lambda found: [arm["images"] for arm in found["results"]["arms"]] == answered
        )
        assert metric(client, "bireal_experiment_requests_total", experiment="split-test", arm="full") > 0
        assert metric(client, "bireal_experiment_weight", experiment="split-test", arm="binary") == 0.3
        named = await ask(client, picture(), path="/classify?variant=full")
        assert named.json()["experiment"] is None, "a client that names a variant gets it"


async def test_paired_runs_both_on_one_image_and_counts_both_orders(anyio_backend, zoo, tmp_path, op):
    file = declare(tmp_path, experiment("paired"))
    async with running(zoo, experiments_file=file, **OPTIONS) as client:
        for number in range(30):
            answer = await ask(client, picture(number))
            assert answer.json()["variant"] == "full"
            assert answer.json()["experiment"]["arm"] == "full"
        await found_when(client, "paired-test", lambda found: found["results"]["pairs"] == 30)
        found = (await client.get("/experiments")).json()
        (only,) = found["experiments"]
        results = only["results"]
        assert found["stored"] is False
        pairs = {agree: metric(client, "bireal_experiment_pairs_total", experiment="paired-test", agree=agree)
                 for agree in ("true", "false")}  # fmt: skip
        assert results["agreement"]["estimate"] == pairs["true"] / 30
        assert results["agreement"]["lower"] < results["agreement"]["estimate"] <= results["agreement"]["upper"]
        assert results["latency_ratio"]["lower"] > 0
        assert only["verdict"]["conclusion"] == "no_labels"
        assert "30 images" in " ".join(only["verdict"]["sentences"])
        assert only["problem"] is None
        for arm in ("full", "binary"):
            count = metric(client, "bireal_experiment_inference_seconds_count", experiment="paired-test", arm=arm)
            assert count == 30


async def test_a_shadow_runs_after_the_answer_and_is_dropped_first(anyio_backend, zoo, tmp_path, op):
    file = declare(tmp_path, experiment("shadow"))
    async with running(zoo, experiments_file=file, background_queue=1, **OPTIONS) as client:

        def counted(outcome):
            return metric(client, "bireal_experiment_shadow_total", experiment="shadow-test", outcome=outcome)

        await ask(client, picture())
        await until(lambda: counted("ok") == 1)
        answers = await asyncio.gather(*(ask(client, picture(number)) for number in range(60)))
        assert {answer.json()["variant"] for answer in answers} == {"full"}
        await until(lambda: counted("ok") + counted("dropped") == 61)
        assert counted("dropped") > 0, "one place in the queue does not hold sixty images at once"
        assert counted("failed") == 0
        found = await found_when(client, "shadow-test", lambda found: found["results"]["pairs"] == counted("ok"))
        assert found["results"]["latency_ratio"] is None, "the candidate ran when nothing waited"
        assert not [
            sentence for sentence in found["verdict"]["sentences"] if "as fast" in sentence or "as long" in sentence
        ]
        await asyncio.to_thread(client.app.state.services.experimentation.reports.update_gauges)
        assert metric(client, "bireal_experiment_latency_ratio", experiment="shadow-test", bound="estimate") == 0
        assert metric(client, "bireal_experiment_agreement", experiment="shadow-test", bound="upper") > 0


async def test_several_images_and_a_broken_one_keep_their_pairs(anyio_backend, zoo, tmp_path, op):
    file = declare(tmp_path, experiment("paired"))
    async with running(zoo, experiments_file=file, **OPTIONS) as client:
        files = [
            ("file", ("a.png", picture(1))),
            ("file", ("b.png", b"\x89PNG broken")),
            ("file", ("c.png", picture(2))),
        ]
        answer = (await client.post("/classify", files=files)).json()
        first, broken, third = answer["results"]
        assert broken["code"] in {"broken-image", "unsupported-image"}
        assert first["feedback_token"] != third["feedback_token"]
        alone = [(await ask(client, picture(number), path="/classify?variant=full")).json() for number in (1, 2)]
        assert [first["predictions"], third["predictions"]] == [each["predictions"] for each in alone]


async def test_depth_is_compared_map_by_map(anyio_backend, zoo, tmp_path, op):
    declared = {**experiment("paired"), "task": "depth", "model": "tiny-bireal-depth"}
    file = declare(tmp_path, declared)
    async with running(zoo, experiments_file=file, **OPTIONS) as client:
        unnamed = await ask(client, picture(size=(24, 80)), path="/depth?model=tiny-ramp")
        assert unnamed.json()["experiment"] is None, "requests for another model take no part"
        answer = await ask(client, picture(size=(24, 80)), path="/depth?model=tiny-bireal-depth&format=npy")
        assert answer.headers["x-bireal-experiment"] == "paired-test"
        assert answer.headers["x-bireal-feedback-token"]
        found = await found_when(client, "paired-test", lambda found: found["results"]["pairs"] == 1)
        assert 0 <= found["results"]["within_1_25"]["estimate"] <= 1


async def test_an_image_that_the_parameters_do_not_fit_takes_no_other_images_observation(
    anyio_backend, zoo, tmp_path, op, monkeypatch
):
    # a split notes its images in their order; the two runs of a pair end in any
    numbers = (f"seen-{number}" for number in range(9))
    monkeypatch.setattr("service.experiments.trial.new_id", lambda: next(numbers))
    file = declare(tmp_path, {**experiment("split"), "task": "depth", "model": "tiny-bireal-depth"})
    async with running(zoo, experiments_file=file, **OPTIONS) as client:
        sizes = {"narrow.png": (24, 80), "wide.png": (30, 100)}
        files = [("file", (name, picture(size=size))) for name, size in sizes.items()]
        answer = await client.post("/depth?model=tiny-bireal-depth&fx=9000", files=files)
        narrow, wide = answer.json()["results"]
        assert "fx" in narrow["detail"], "more than a hundred times its width"
        token = client.app.state.services.experimentation.tokens.read(wide["feedback_token"])
        assert token.id == "seen-1"


async def test_an_administrator_creates_changes_and_ends_experiments(anyio_backend, zoo, op):
    async with running(zoo, **OPTIONS) as client:
        body = experiment("split", weight=1.0)
        assert (await client.put("/admin/experiments/split-test", json=body)).status_code == 401
        assert (await client.get("/experiments")).json()["experiments"] == []
        made = await client.put("/admin/experiments/split-test", json=body, headers=ADMIN)
        assert made.status_code == 200, made.text
        assert (await ask(client, picture())).json()["variant"] == "binary"
        changed = await client.patch("/admin/experiments/split-test", json={"weight": 0.0}, headers=ADMIN)
        assert [arm["weight"] for arm in changed.json()["arms"]] == [1.0, 0.0]
        assert changed.json()["results"]["revision"] != made.json()["results"]["revision"]
        assert made.json()["notice"] is None
        assert re.search("starts over.*different weights", changed.json()["notice"])
        back = await client.patch("/admin/experiments/split-test", json={"margin": 0.1}, headers=ADMIN)
        assert back.json()["notice"] is None
        shuffled = await client.put("/admin/experiments/split-test", json={**body, "salt": "x"}, headers=ADMIN)
        assert "compares something else" in shuffled.json()["notice"]
        await client.put("/admin/experiments/split-test", json={**body, "weight": 0.0}, headers=ADMIN)
        assert (await ask(client, picture())).json()["variant"] == "full"
        await client.patch("/admin/experiments/split-test", json={"state": "paused"}, headers=ADMIN)
        assert metric(client, "bireal_experiment_running", experiment="split-test", mode="split") == 0
        paused = (await ask(client, picture())).json()
        assert (paused["variant"], paused["experiment"]) == ("binary", None)
        await client.patch("/admin/experiments/split-test", json={"state": "running"}, headers=ADMIN)
        assert (await ask(client, picture())).json()["experiment"]["arm"] == "full"
        assert (await client.delete("/admin/experiments/split-test", headers=ADMIN)).status_code == 204
        assert (await client.get("/experiments/split-test")).status_code == 404
        assert (await ask(client, picture())).json()["experiment"] is None


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"weight": 1.5}, "bad-parameter", "weight"),
        ({"weight": True}, "bad-parameter", "weight"),
        ({"margin": 0}, "bad-parameter", "margin"),
        ({"mode": "guess"}, "bad-parameter", "mode"),
        ({"wieght": 0.5}, "bad-parameter", "wieght"),
        ({"name": "other"}, "invalid-experiment", "other"),
        ({"sample": 0.1}, "invalid-experiment", "`sample` has no effect"),
        ({"mode": "shadow", "weight": 0.05}, "invalid-experiment", "`weight` has no effect"),
        ({"candidate": {"variant": "full"}}, "bad-parameter", "same|called"),
        ({"candidate": {"variant": "binary", "model": "nope"}}, "unknown-model", "nope"),
        ({"model": "tiny-colours"}, "variant-not-served", "binary"),
    ],
)
async def test_a_declaration_that_cannot_be_is_refused_and_changes_nothing(anyio_backend, zoo, op, change, code, said):
    async with running(zoo, **OPTIONS) as client:
        body = {**experiment("split"), **change}
        answer = await client.put("/admin/experiments/split-test", json=body, headers=ADMIN)
        assert answer.json()["code"] == code, answer.text
        assert re.search(said, answer.json()["detail"])
        assert answer.status_code < 500
        assert (await client.get("/experiments")).json()["experiments"] == []


@pytest.mark.parametrize(
    ("mode", "member", "other"),
    [("paired", "weight", "sample"), ("shadow", "weight", "sample"), ("split", "sample", "weight")],
)
async def test_a_change_without_effect_is_refused_and_changes_nothing(
    anyio_backend, zoo, tmp_path, op, mode, member, other
):
    async with running(zoo, experiments_file=declare(tmp_path, experiment(mode)), **OPTIONS) as client:
        before = client.app.state.services.experimentation.experiments.get(f"{mode}-test")
        change = {member: 0.25, "margin": 0.1}
        refused = await client.patch(f"/admin/experiments/{mode}-test", json=change, headers=ADMIN)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid-experiment")
        assert member in refused.json()["detail"]
        assert mode in refused.json()["detail"]
        assert other in refused.json()["help"]
        assert client.app.state.services.experimentation.experiments.get(f"{mode}-test") == before
        taken = await client.patch(f"/admin/experiments/{mode}-test", json={other: 0.25}, headers=ADMIN)
        assert taken.status_code == 200, taken.text
        assert getattr(client.app.state.services.experimentation.experiments.get(f"{mode}-test"), other) == 0.25


@pytest.mark.parametrize("change", [{}, {"state": None, "weight": None, "margin": None}])
@pytest.mark.parametrize(("mode", "takes"), [("split", "weight"), ("paired", "sample")])
async def test_a_change_of_nothing_is_refused(anyio_backend, zoo, tmp_path, op, mode, takes, change):
    async with running(zoo, experiments_file=declare(tmp_path, experiment(mode)), **OPTIONS) as client:
        refused = await client.patch(f"/admin/experiments/{mode}-test", json=change, headers=ADMIN)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid-experiment")
        assert "no change to" in refused.json()["detail"]
        assert f"`state`, `{takes}`, `margin`" in refused.json()["help"]


async def test_two_experiments_never_claim_the_same_requests(anyio_backend, zoo, op):
    async with running(zoo, **OPTIONS) as client:
        await client.put("/admin/experiments/split-test", json=experiment("split"), headers=ADMIN)
        second = await client.put("/admin/experiments/paired-test", json=experiment("paired"), headers=ADMIN)
        assert second.json()["code"] == "invalid-experiment"
        paused = experiment("paired", state="paused")
        assert (await client.put("/admin/experiments/paired-test", json=paused, headers=ADMIN)).status_code == 200


async def test_changes_reach_replicas_and_outlive_a_restart(anyio_backend, zoo, tmp_path, op):
    options = {"feedback_store": tmp_path / "store.sqlite", "experiments_file": declare(tmp_path, experiment("split"))}
    async with running(zoo, **options, **OPTIONS) as one, running(zoo, **options, **OPTIONS) as two:
        await one.patch("/admin/experiments/split-test", json={"weight": 0.125}, headers=ADMIN)
        known = two.app.state.services.experimentation.experiments
        await until(lambda: known.get("split-test").weight == 0.125)
    async with running(zoo, **options, **OPTIONS) as again:
        found = (await again.get("/experiments")).json()
        assert found["experiments"][0]["arms"][1]["weight"] == 0.125
        assert found["stored"] is True


async def test_changes_of_two_administrators_are_both_kept(anyio_backend, zoo, tmp_path, op):
    options = {"feedback_store": tmp_path / "store.sqlite", "experiments_file": declare(tmp_path, experiment("split"))}
    async with running(zoo, **options, **OPTIONS) as one, running(zoo, **options, **OPTIONS) as two:
        path = "/admin/experiments/split-test"
        await one.patch(path, json={"state": "paused"}, headers=ADMIN)
        await two.patch(path, json={"weight": 0.125}, headers=ADMIN)  # before this replica has looked at the store
        found = (await two.get("/experiments/split-test")).json()
        assert (found["state"], found["arms"][1]["weight"]) == ("paused", 0.125)
        for number in range(1, 31):
            weight, margin = number / 64, number / 100
            changes = ({"weight": weight}, {"margin": margin})
            await asyncio.gather(*(one.patch(path, json=change, headers=ADMIN) for change in changes))
            found = one.app.state.services.experimentation.experiments.get("split-test")
            assert (found.weight, found.margin) == (weight, margin)


async def test_a_candidate_that_cannot_run_leaves_the_service_alone(anyio_backend, zoo, tmp_path, op):
    broken = experiment("split", candidate={"variant": "binary", "model": "missing"}, weight=1.0)
    async with running(zoo, experiments_file=declare(tmp_path, broken), **OPTIONS) as client:
        answer = (await ask(client, picture())).json()
        assert (answer["variant"], answer["experiment"]) == ("binary", None)
        (only,) = (await client.get("/experiments")).json()["experiments"]
        assert "missing" in only["problem"]
        assert only["results"] is None


async def test_a_new_version_of_an_arm_starts_anew_and_one_that_went_has_no_results(anyio_backend, zoo, tmp_path, op):
    shutil.copytree(zoo, tmp_path / "zoo")
    file = declare(tmp_path, experiment("paired"))
    async with running(tmp_path / "zoo", experiments_file=file, **OPTIONS) as client:
        await ask(client, picture())
        await found_when(client, "paired-test", lambda found: found["results"]["pairs"] == 1)
        reports = client.app.state.services.experimentation.reports
        await asyncio.to_thread(reports.update_gauges)  # what the recorder's thread does every ten seconds
        assert metric(client, "bireal_experiment_agreement", experiment="paired-test", bound="upper") > 0
        model = tmp_path / "zoo" / "tiny-bireal"
        shutil.copytree(model / "1", model / "2")
        card = yaml.safe_load((model / "2" / "card.yaml").read_text())
        (model / "2" / "card.yaml").write_text(yaml.safe_dump({**card, "version": "2"}))
        assert (await client.post("/admin/models/tiny-bireal/load", headers=ADMIN)).status_code == 200
        found = (await client.get("/experiments/paired-test")).json()
        assert [arm["version"] for arm in found["arms"]] == ["1", "2"]
        assert found["results"]["pairs"] == 0, "what version 1 gave is not told as version 2's"
        await asyncio.to_thread(reports.update_gauges)
        assert metric(client, "bireal_experiment_agreement", experiment="paired-test", bound="upper") == 0
        await client.post("/admin/models/tiny-bireal/unload?force=true", headers=ADMIN)
        found = (await client.get("/experiments/paired-test")).json()
        assert found["results"] is None
        assert "no model" in found["problem"]


async def test_a_fallback_is_never_counted_as_the_arm_that_it_stands_in_for(anyio_backend, zoo, tmp_path):
    settings = {"model_dir": zoo, "fallback": "reference", "intra_op_threads": 1, **OPTIONS}
    registry = Registry(load_settings(settings), find_backend=without_op)
    file = declare(tmp_path, experiment("paired"))
    async with running(zoo, registry, experiments_file=file, **OPTIONS) as client:
        answer = (await ask(client, picture())).json()
        assert (answer["variant"], answer["experiment"]) == ("reference", None)
        found = (await client.get("/experiments/paired-test")).json()
        assert "`reference` ran" in found["problem"]
        assert found["results"] is None


async def test_an_experiment_is_reported_as_soon_as_its_models_run(anyio_backend, zoo, tmp_path, op):
    """A report asked for too early, as the gauges' writer does while models are loaded, is not the last word."""
    labels = {"experiment": "paired-test", "mode": "paired"}
    async with running(zoo, experiments_file=declare(tmp_path, experiment("paired")), **OPTIONS) as client:
        await until(lambda: metric(client, "bireal_experiment_running", **labels) == 1)
        await client.post("/admin/models/tiny-bireal/unload?force=true", headers=ADMIN)
        client.app.state.services.experimentation.reports.forget("paired-test")  # as before the first report of all
        found = (await client.get("/experiments/paired-test")).json()
        assert found["results"] is None
        assert found["problem"]
        await until(lambda: metric(client, "bireal_experiment_running", **labels) == 0)
        await client.post("/admin/models/tiny-bireal/load", headers=ADMIN)
        await until(lambda: metric(client, "bireal_experiment_running", **labels) == 1)
        found = (await client.get("/experiments/paired-test")).json()
        assert found["problem"] is None
        assert found["results"]["pairs"] == 0


@pytest.mark.parametrize("subject", ["", "a b", "é", "x" * 129])
async def test_a_subject_that_cannot_be_is_refused(client, subject):
    answer = await client.post(
        "/classify?model=tiny-colours", content=picture(), headers={"x-bireal-subject": subject.encode()}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "bad-parameter")
    assert json.loads(answer.text)["parameter"] == "x-bireal-subject"
