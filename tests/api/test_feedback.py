"""Feedback over HTTP: what is taken, what is refused, what it counts for, and that it works at every replica."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from service.experiments.tokens import Prediction, Target, Tokens
from tests.api.conftest import metric, running
from tests.api.test_experiments import OPTIONS, ask, declare, experiment, found_when, picture
from tests.pictures import encode

pytestmark = pytest.mark.anyio

SECRET = "a-secret-that-replicas-share"


def colour(name):
    """A picture that tiny-colours names rightly: red is class 0, green 1, blue 2."""
    return encode(Image.new("RGB", (40, 40), name), "PNG")


async def token_for(client, content, path="/classify?variant=full"):
    return (await ask(client, content, path)).json()["feedback_token"]


async def tell(client, token, label):
    return await client.post("/feedback", json={"token": token, "label": label})


@pytest.fixture
async def service(anyio_backend, zoo, op):
    async with running(zoo, **OPTIONS) as client:
        yield client


@pytest.mark.parametrize("label", [0, "n00000001", "N00000001", "red", "Red"])
async def test_a_label_by_index_id_or_name(service, label):
    answer = await tell(service, await token_for(service, colour("red")), label)
    assert answer.status_code == 201
    told = answer.json()
    assert (told["status"], told["correct"], told["correct_top5"]) == ("stored", True, True)
    assert (told["model"], told["version"], told["variant"]) == ("tiny-colours", "1", "full")


async def test_a_wrong_answer_is_counted_as_wrong_whatever_top_k_was_asked(service):
    token = await token_for(service, colour("red"), "/classify?variant=full&top_k=1")
    told = (await tell(service, token, "green")).json()
    assert (told["correct"], told["correct_top5"]) == (False, True)


async def test_feedback_is_idempotent_and_contradictions_are_told(service):
    token = await token_for(service, colour("red"))
    assert (await tell(service, token, "red")).status_code == 201
    again = await tell(service, token, 0)
    assert (again.status_code, again.json()["status"]) == (200, "repeated")
    other = await tell(service, token, "blue")
    assert (other.status_code, other.json()["code"]) == (409, "feedback-conflict")
    counted = {
        outcome: metric(service, "bireal_feedback_total", task="classify", outcome=outcome)
        for outcome in ("stored", "repeated", "conflicting", "refused")
    }
    assert counted == {"stored": 1, "repeated": 1, "conflicting": 1, "refused": 0}


@pytest.mark.parametrize(
    ("label", "code"),
    [
        (3, "unknown-label"),
        ("purple", "unknown-label"),
        (-1, "bad-parameter"),
        (True, "bad-parameter"),
        (None, "bad-parameter"),
        ("", "bad-parameter"),
        (10**30, "unknown-label"),
    ],
)
async def test_labels_that_are_none(service, label, code):
    answer = await tell(service, await token_for(service, colour("red")), label)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_tokens_that_are_none(service):
    good = await token_for(service, colour("red"))
    for token in ("x", good[:-2], good[1:], good.replace(".", "", 1), "A" * 4000, "."):
        answer = await tell(service, token, 0)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad-feedback-token"), token
    assert (await tell(service, "A" * 5000, 0)).status_code == 422
    stranger = Tokens(["another-secret-altogether"], max_age_s=60)
    forged = stranger.sign(Prediction("id", "r", "classify", Target("tiny-colours", "1", "full"), (0,)))
    assert (await tell(service, forged, 0)).json()["code"] == "bad-feedback-token"
    assert metric(service, "bireal_feedback_total", task="classify", outcome="refused") == 7


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"token": 1}', b'{"label": 1}', b'{"token":"a","label":1,"x":2}'])
async def test_bodies_that_are_none(service, body):
    answer = await service.post("/feedback", content=body, headers={"content-type": "application/json"})
    kind = (400, "malformed-body") if body == b"{" else (422, "bad-parameter")
    assert (answer.status_code, answer.json()["code"]) == kind


async def test_more_labels_than_are_kept_push_out_the_oldest(anyio_backend, zoo):
    async with running(zoo, feedback_rows=5, **OPTIONS) as client:
        experimentation = client.app.state.services.experimentation
        tokens = [await token_for(client, colour("red")) for _ in range(10)]
        for token in tokens:
            assert (await tell(client, token, "red")).status_code == 201
        experimentation.recorder.prune()
        rows, _ = experimentation.store.size()
        assert (rows["feedback"], rows["spent"]) == (5, 5)
        assert metric(client, "bireal_feedback_removed_total", reason="count") == 5
        assert (await tell(client, tokens[0], "red")).json()["status"] == "repeated", "it does not count again"


async def test_an_old_answer_takes_no_feedback(anyio_backend, zoo):
    async with running(zoo, feedback_secrets=SECRET, feedback_days=1, **OPTIONS) as client:
        tokens = client.app.state.services.experimentation.tokens
        signer = tokens._signer
        token = await token_for(client, colour("red"))
        clock = signer.get_timestamp
        signer.get_timestamp = lambda: clock() + 86_402  # a day and two seconds later
        answer = await tell(client, token, 0)
        assert (answer.status_code, answer.json()["code"]) == (410, "expired-feedback-token")


@pytest.mark.parametrize(("ahead_s", "status"), [(2, 201), (290, 201), (600, 400)])
async def test_a_replica_whose_clock_is_ahead(service, ahead_s, status):
    """Its tokens are not called too old by the others; far ahead, they say what is wrong."""
    signer = service.app.state.services.experimentation.tokens._signer
    clock = signer.get_timestamp
    signer.get_timestamp = lambda: clock() + ahead_s
    token = await token_for(service, colour("red"))
    signer.get_timestamp = clock
    answer = await tell(service, token, 0)
    assert answer.status_code == status, answer.text
    if status == 400:
        assert answer.json()["code"] == "bad-feedback-token"
        assert "10 minutes ahead" in answer.json()["detail"]
        assert "clocks" in answer.json()["help"]


async def test_any_replica_takes_feedback_and_all_count_it_once(anyio_backend, zoo, tmp_path):
    options = {"feedback_store": tmp_path / "store.sqlite", "feedback_secrets": SECRET}
    async with running(zoo, **options, **OPTIONS) as one, running(zoo, **options, **OPTIONS) as two:
        token = await token_for(one, colour("red"))
        assert (await tell(two, token, "red")).status_code == 201
        assert (await tell(one, token, "red")).json()["status"] == "repeated"
        assert (await tell(one, token, "blue")).status_code == 409
    async with running(zoo, **options, **OPTIONS) as again:
        assert (await tell(again, token, "red")).json()["status"] == "repeated"


async def test_live_accuracy_has_an_exact_interval(service):
    for shown, label in (("red", "red"), ("green", "green"), ("blue", "red"), ("red", "red")):
        await tell(service, await token_for(service, colour(shown)), label)
    target = {"task": "classify", "model": "tiny-colours", "version": "1", "variant": "full"}
    service.app.state.services.experimentation.reports.update_gauges()
    assert metric(service, "bireal_live_accuracy_images", **target) == 4
    top1 = {
        bound: metric(service, "bireal_live_accuracy", **target, metric="top1", bound=bound)
        for bound in ("estimate", "lower", "upper")
    }
    # Clopper-Pearson for 3 of 4: scipy.stats.beta.ppf(0.025, 3, 2) and (0.975, 4, 1).
    assert top1 == pytest.approx({"estimate": 0.75, "lower": 0.19412, "upper": 0.99369}, abs=1e-5)


async def test_live_accuracy_is_shown_while_it_is_computed_anew(service, monkeypatch):
    """The query takes a second where much is kept: a scrape meanwhile must find what BirealAccuracyDrop asks for."""
    experimentation = service.app.state.services.experimentation
    target = {"task": "classify", "model": "tiny-colours", "version": "1", "variant": "full"}
    during, live = [], experimentation.store.live

    def slow():
        during.append(metric(service, "bireal_live_accuracy_images", **target))
        return live()

    monkeypatch.setattr(experimentation.store, "live", slow)
    for shown in range(2):
        assert (await tell(service, await token_for(service, colour("red")), "red")).status_code == 201
        experimentation.reports.update_gauges()
        assert metric(service, "bireal_live_accuracy_images", **target) == shown + 1
    assert during[-1] == 1


@pytest.mark.parametrize("mode", ["paired", "shadow"])
async def test_labelled_pairs_decide_an_experiment(anyio_backend, zoo, tmp_path, op, mode):
    """`full` names colours rightly and `binary` has random weights: the verdict must find that out."""
    file = declare(tmp_path, experiment(mode))
    name = f"{mode}-test"
    async with running(zoo, experiments_file=file, background_queue=500, **OPTIONS) as client:
        for number in range(120):
            shade = ("red", "lime", "blue")[number % 3]
            token = await token_for(client, colour(shade), "/classify")
            assert (await tell(client, token, number % 3)).json()["correct"] is True
        found = await found_when(
            client, name, lambda found: sum((found["results"]["labelled_pairs"] or {"": 0}).values()) == 120
        )
        results, pairs = found["results"], found["results"]["labelled_pairs"]
        assert pairs["neither"] == pairs["candidate"] == 0
        assert pairs["baseline"] > 40, "random weights cannot name three colours"
        evidence = results["evidence"]
        assert evidence["e_value"] > 1000
        assert evidence["p_value"] < 1e-6
        assert evidence["difference"]["estimate"] == pytest.approx(-pairs["baseline"] / 120)
        watched = evidence["difference_watched"]
        assert watched["lower"] <= evidence["difference"]["lower"]
        assert results["arms"][0]["accuracy"]["estimate"] == 1
        assert found["verdict"]["conclusion"] == "worse"
        assert found["verdict"]["summary"].startswith("No: binary loses more than 2 points")
        client.app.state.services.experimentation.reports.update_gauges()
        assert metric(client, "bireal_experiment_e_value", experiment=name) == evidence["e_value"]
        assert metric(client, "bireal_experiment_labelled_pairs", experiment=name, result="both") == pairs["both"]


# --- depth -----------------------------------------------------------------------------------------------------------


def road():
    return encode(Image.new("RGB", (160, 48), "grey"), "PNG")


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def png16(values_m):
    return encode(Image.fromarray((values_m * 256).astype(np.uint16)), "PNG")


async def ask_depth(client, query="variant=full"):
    answer = await ask(client, road(), f"/depth?model=tiny-bireal-depth&size=original&format=npy&{query}")
    return answer.headers["x-bireal-feedback-token"], np.load(io.BytesIO(answer.content))


async def tell_depth(client, token, truth, content=None, kind="image/png"):
    files = {"picture": ("road.png", content or road(), kind), "truth": ("truth", truth)}
    return await client.post("/feedback/depth", data={"token": token}, files=files)


@pytest.mark.parametrize("write", [npy, png16])
async def test_depth_is_measured_again_and_scored_by_the_evaluations_code(service, write):
    token, map_m = await ask_depth(service)
    exact = await tell_depth(service, token, write(map_m))
    assert exact.status_code == 201, exact.text
    assert exact.json()["abs_rel"] == pytest.approx(0, abs=1e-3)  # 16-bit steps are 4 mm
    assert exact.json()["delta1"] == 1
    token, map_m = await ask_depth(service)
    told = (await tell_depth(service, token, write(map_m * 2))).json()
    assert told["abs_rel"] == pytest.approx(0.5, abs=2e-3)
    assert told["delta1"] == 0
    assert (await tell_depth(service, token, write(map_m * 2))).json()["status"] == "repeated"
    assert (await tell_depth(service, token, write(map_m * 3))).status_code == 409


async def test_a_pictures_declared_type_is_taken_as_everywhere(service):
    token, map_m = await ask_depth(service)
    refused = await tell_depth(service, token, npy(map_m), kind="text/plain")
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported-image")
    taken = await tell_depth(service, token, npy(map_m), kind="application/x-www-form-urlencoded")  # as curl's default
    assert taken.status_code == 201, taken.text


async def test_a_focal_length_is_part_of_what_is_scored(service):
    token, map_m = await ask_depth(service, "variant=full&fx=200")
    assert (await tell_depth(service, token, npy(map_m))).json()["abs_rel"] == pytest.approx(0, abs=1e-5)


async def test_both_arms_of_a_depth_experiment_are_scored(anyio_backend, zoo, tmp_path, op):
    declared = {**experiment("paired"), "task": "depth", "model": "tiny-bireal-depth"}
    async with running(zoo, experiments_file=declare(tmp_path, declared), **OPTIONS) as client:
        for _ in range(4):
            token, map_m = await ask_depth(client, "")
            assert (await tell_depth(client, token, npy(map_m))).status_code == 201
        found = await found_when(
            client, "paired-test", lambda found: [arm["labelled"] for arm in found["results"]["arms"]] == [4, 4]
        )
        full, binary = found["results"]["arms"]
        assert full["accuracy"]["estimate"] == 1
        assert binary["accuracy"]["estimate"] < 0.9
        assert binary["abs_rel"]["estimate"] > 0.1
        assert found["results"]["evidence"]["difference"]["estimate"] == pytest.approx(
            binary["accuracy"]["estimate"] - 1
        )


def _header(shape, length=None, descr="'<f4'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    body = text.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + b"\0" * (length or 16)


@pytest.mark.parametrize(
    "truth",
    [
        npy(np.ones((48, 161), np.float32)),
        npy(np.ones((48, 160), np.int32)),
        npy(np.zeros((48, 160), np.float32)),
        npy(np.full((48, 160), np.nan, np.float32)),
        npy(np.full((48, 160), 500, np.float32)),
        npy(np.ones((48, 160), np.float32))[:-4],
        _header("(48, 160)"),
        _header("(100000000, 100000000)"),
        _header("()"),
        _header("(48, 160"),
        _header("(48, 160)", descr="('<f4',)"),
        _header("(48, 160)", descr="'V4,('"),
        _header("{[]: 1}"),
        b"\x93NUMPY\x01\x00",
        npy(np.array([[b"pickled"]], dtype=object)),
        encode(Image.new("RGB", (160, 48)), "PNG"),
        png16(np.ones((48, 159))),
        png16(np.ones((48, 160)))[:-60],
        b"not a picture",
    ],
    ids=lambda value: repr(value[:24]),
)
async def test_ground_truths_that_are_none(service, truth):
    token, _ = await ask_depth(service)
    answer = await tell_depth(service, token, truth)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad-ground-truth"), answer.text


async def test_another_picture_cannot_be_scored(service):
    token, map_m = await ask_depth(service)
    other = encode(Image.new("RGB", (160, 48), "white"), "PNG")
    answer = await tell_depth(service, token, npy(map_m), other)
    assert answer.json()["code"] == "bad-ground-truth"
    assert "byte for byte" in answer.json()["help"]
    classified = await token_for(service, colour("red"))
    assert (await tell_depth(service, classified, npy(map_m))).json()["help"] == "Send it to /feedback."
    assert (await tell(service, token, 1)).json()["help"] == "Send it to /feedback/depth."


async def test_forms_that_are_none(service):
    token, map_m = await ask_depth(service)
    good = {"picture": ("a", road()), "truth": ("b", npy(map_m))}
    for data, files, code, parameter in (
        ({}, good, "bad-parameter", "token"),
        ({"token": token}, {"picture": good["picture"]}, "bad-parameter", "truth"),
        ({"token": token}, {**good, "more": ("c", b"x")}, "malformed-body", None),
        ({"token": token, "more": "x"}, good, "bad-parameter", "more"),
        ({"token": [token, token]}, good, "bad-parameter", "body"),
        ({"token": token, "truth": "text"}, {"picture": good["picture"]}, "bad-parameter", "truth"),
        ({"token": token}, {**good, "truth": ("b", b"")}, "empty-body", None),
    ):
        answer = await service.post("/feedback/depth", data=data, files=files)
        assert (answer.json()["code"], answer.json().get("parameter")) == (code, parameter), answer.text
    answer = await service.post("/feedback/depth", content=json.dumps({"token": token}))
    assert answer.json()["code"] == "malformed-body"


async def test_what_could_not_be_stored_is_not_acknowledged(anyio_backend, zoo, tmp_path):
    store = tmp_path / "store.sqlite"
    async with running(zoo, feedback_store=store, **OPTIONS) as client:
        token = await token_for(client, colour("red"))
        client.app.state.services.experimentation.store._connection.execute("PRAGMA query_only = ON")
        answer = await tell(client, token, 0)
        assert (answer.status_code, answer.json()["code"]) == (503, "feedback-store-unavailable")
        client.app.state.services.experimentation.store._connection.execute("PRAGMA query_only = OFF")
        assert (await tell(client, token, 0)).json()["status"] == "stored"


async def test_no_token_and_no_picture_is_kept_of_a_client(anyio_backend, zoo, tmp_path, caplog):
    store = tmp_path / "store.sqlite"
    async with running(zoo, feedback_store=store, **OPTIONS) as client:
        content = picture(7)
        token = await token_for(client, content)
        await tell(client, token, 0)
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert content[40:80] not in kept
    assert token.encode() not in kept
    assert token not in caplog.text
