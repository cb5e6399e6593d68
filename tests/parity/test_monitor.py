"""The parity monitor: quiet on intact networks, and certain about a single flipped bit."""

import asyncio
import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from onnx import numpy_helper
from PIL import Image
from skimage import data as pictures

from service.backends import backend_for
from service.backends.dialect import BCONV, PackedGraph, read_model
from service.card import Card
from service.errors import ModelBrokenError
from service.parity.checks import LARGEST_DIFFERENCE, LayerCheck, LayerFinding, Probe, compare_outputs
from service.parity.monitor import ParityMonitor
from service.registry import Registry
from service.settings import load_settings
from service.tasks import TASKS
from tests.api.conftest import anyio_backend, metric, running, zoo  # noqa: F401  fixtures
from tests.parity.memory import flipped_bit
from tests.pictures import of_pixels, picture
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "zoo" / "bireal18-tiny100"
MODEL = {"task": "classify", "model": "tiny-bireal", "version": "1"}
OUTCOMES = ("ok", "dropped", "failed")
EVERYTHING = {"parity_sample": 1.0, "parity_layer_sample": 1.0, "parity_probe_s": 0.0, "background_queue": 100}


def shipped() -> Card:
    return Card.load(max(folder for folder in SHIPPED.iterdir() if folder.is_dir()))


def photo(seed: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


async def ask(client, seed: int = 0, query: str = "model=tiny-bireal&variant=binary"):
    answer = await client.post(f"/classify?{query}", content=photo(seed), headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text


def checked(client) -> float:
    return metric(client, "bireal_parity_images_total", **MODEL, outcome="ok")


async def ask_and_wait(client, seed: int, **options) -> None:
    """Asks, and waits for the check: of several at once, those that wait for two seconds are dropped."""
    before = checked(client)
    await ask(client, seed, **options)
    await until(lambda: checked(client) == before + 1)


# --- the whole monitor -----------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_intact_network_is_found_intact(anyio_backend, zoo, op):  # noqa: F811
    async with running(zoo, **EVERYTHING) as client:
        for seed in range(6):
            await ask_and_wait(client, seed)
        assert metric(client, "bireal_parity_agreement_total", **MODEL, agree="true") == 6
        assert metric(client, "bireal_parity_difference_bucket", **MODEL, le="1e-05") == 6
        assert metric(client, "bireal_parity_probes_total", **MODEL, same="true") == 6
        assert metric(client, "bireal_parity_ok", **MODEL) == 1
        layers = {
            sample.labels["layer"]: sample.value
            for family in client.app.state.services.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "bireal_parity_layer_sign_agreement"
        }
        assert len(layers) >= 4
        assert set(layers.values()) == {1.0}
        for layer in layers:
            assert metric(client, "bireal_parity_layer_checks_total", **MODEL, layer=layer) == 6
            assert metric(client, "bireal_parity_layer_mismatches_total", **MODEL, layer=layer) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["paired", "shadow"])
async def test_a_network_that_only_runs_beside_another_is_watched(anyio_backend, zoo, op, tmp_path, mode):  # noqa: F811
    declared = {
        "name": "beside",
        "task": "classify",
        "mode": mode,
        "baseline": {"variant": "full"},
        "candidate": {"variant": "binary"},
    }
    file = tmp_path / "experiments.yaml"
    file.write_text(yaml.safe_dump({"experiments": [declared]}))
    options = {**EVERYTHING, "experiments_file": file, "default_classify_model": "tiny-bireal"}
    async with running(zoo, **options) as client:
        for seed in range(3):
            await ask_and_wait(client, seed, query="")
        assert metric(client, "bireal_parity_agreement_total", **MODEL, agree="true") == 3
        assert metric(client, "bireal_parity_ok", **MODEL) == 1


@pytest.mark.anyio
async def test_one_flipped_bit_in_memory_is_caught(anyio_backend, zoo, op, caplog):  # noqa: F811
    async with running(zoo, **EVERYTHING) as client:
        await ask(client)
        await until(lambda: checked(client) == 1)
        handle = client.app.state.services.registry.resolve("classify", "tiny-bireal", "binary")
        image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        with flipped_bit(handle.card, handle.model, image):
            await ask_and_wait(client, 1)
            await ask_and_wait(client, 2)
        assert metric(client, "bireal_parity_probes_total", **MODEL, same="false") == 2
        assert metric(client, "bireal_parity_ok", **MODEL) == 0
        told = [record for record in caplog.records if record.name == "service.parity.monitor"]
        assert len(told) == 1, "once, not with every image"
        assert "tiny-bireal@1 is broken" in told[0].getMessage()


@pytest.mark.anyio
async def test_a_network_that_was_corrupt_when_it_was_loaded_is_caught(anyio_backend, tmp_path, zoo, op):  # noqa: F811
    """`binary` runs a copy with one flipped bit; the reference and the probe come from the intact file."""
    intact = Card.load(zoo / "tiny-bireal" / "1")
    damaged = tmp_path / "tiny-bireal" / "1"
    shutil.copytree(intact.directory, damaged)
    _flip_in_file(damaged)

    class Damaging:
        """Loads `binary` from the damaged copy."""

        name = "bitpacked"

        def load(self, card, variant, *, intra_op_threads):
            card = Card.load(damaged) if card.name == "tiny-bireal" else card
            return backend_for("binary").load(card, variant, intra_op_threads=intra_op_threads)

    registry = Registry(
        load_settings({"model_dir": zoo, "intra_op_threads": 1}),
        find_backend=lambda variant: Damaging() if variant == "binary" else backend_for(variant),
    )
    async with running(zoo, registry, **EVERYTHING) as client:
        await ask(client)
        await until(lambda: checked(client) == 1)
        assert metric(client, "bireal_parity_probes_total", **MODEL, same="false") == 1
        assert metric(client, "bireal_parity_ok", **MODEL) == 0


@pytest.mark.anyio
async def test_only_a_share_of_binary_is_watched_and_nothing_without_the_setting(anyio_backend, zoo, op):  # noqa: F811
    async with running(zoo, parity_sample=0.3, parity_layer_sample=0.0, background_queue=200) as client:
        for seed in range(60):
            await ask(client, seed)
        await ask(client, query="model=tiny-bireal&variant=reference")
        await ask(client, query="model=tiny-colours")
        await until(lambda: client.app.state.services.experimentation._background.waiting() == 0)
        await until(lambda: checked(client) > 0)
        assert 3 <= checked(client) <= 36  # 18 expected: 4.2 standard deviations below, 5 above
        monitor = client.app.state.services.pipeline._watch
        assert all(watched.layers is None for watched in monitor._watched.values()), "its graphs were not asked for"
    async with running(zoo) as client:
        await ask(client)
        assert client.app.state.services.pipeline._watch is None


@pytest.mark.anyio
async def test_checks_are_dropped_first_and_counted(anyio_backend, zoo, op):  # noqa: F811
    async with running(zoo, **{**EVERYTHING, "background_queue": 1}) as client:
        for seed in range(30):
            await ask(client, seed)

        def counted(outcome: str) -> float:
            return metric(client, "bireal_parity_images_total", **MODEL, outcome=outcome)

        await until(lambda: counted("ok") + counted("dropped") == 30)
        assert counted("dropped") > 0
        assert counted("failed") == 0


@pytest.mark.anyio
async def test_checks_that_cannot_be_made_are_tried_once_an_interval(anyio_backend, zoo, op, tmp_path, caplog):  # noqa: F811
    """The file is damaged after it was loaded: answers are still compared, and it is not read again for each one."""
    shutil.copytree(zoo, tmp_path, dirs_exist_ok=True)
    async with running(tmp_path, **{**EVERYTHING, "parity_probe_s": 3600.0}) as client:
        file = tmp_path / "tiny-bireal" / "1" / "model.onnx"
        file.write_bytes(b"damaged")
        for seed in range(5):
            await ask_and_wait(client, seed)
        assert metric(client, "bireal_parity_images_total", **MODEL, outcome="failed") == 0
        assert metric(client, "bireal_parity_agreement_total", **MODEL, agree="true") == 5
        assert metric(client, "bireal_parity_ok", **MODEL) == 1, "what is in memory is intact"
    told = [record.getMessage() for record in caplog.records if record.name == "service.parity.monitor"]
    assert len(told) == 2, told
    assert "fixed images could not be run on tiny-bireal" in told[0]
    assert "layers of tiny-bireal could not be checked" in told[1]


def shown(client, name: str) -> list[float]:
    """What a gauge says of the model, whatever its other labels."""
    families = client.app.state.services.metrics.registry.collect()
    samples = (sample for family in families for sample in family.samples)
    return [sample.value for sample in samples if sample.name == name and MODEL.items() <= sample.labels.items()]


@pytest.mark.anyio
@pytest.mark.parametrize("change", ["unload", "reload"])
async def test_what_is_served_no_more_is_not_checked(anyio_backend, zoo, op, change):  # noqa: F811  a fixture
    """Not against the reference of the version that took its place, either."""
    async with running(zoo, **EVERYTHING) as client:
        services = client.app.state.services
        handle = services.registry.resolve("classify", "tiny-bireal", "binary")
        image = np.zeros((handle.card.input.height, handle.card.input.width, 3), np.uint8)
        outcome = await services.pipeline._scheduler.submit(handle.model, image)
        getattr(services.changes, change)("tiny-bireal", **({"force": True} if change == "unload" else {}))
        services.pipeline._watch(handle, image, outcome)
        await until(lambda: sum(shown(client, "bireal_parity_images_total")) == 1)
        assert metric(client, "bireal_parity_images_total", **MODEL, outcome="dropped") == 1
        assert shown(client, "bireal_parity_agreement_total") == []
        assert shown(client, "bireal_parity_ok") == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("check", "method", "found"),
    [(Probe, "same", False), (LayerCheck, "run", [LayerFinding("conv", exact=False, sign_agreement=0.5)])],
    ids=["Probe", "LayerCheck"],
)
async def test_a_check_that_ends_after_its_network_was_unloaded_leaves_no_gauge(
    anyio_backend,  # noqa: F811  a fixture
    zoo,  # noqa: F811  a fixture
    op,
    monkeypatch,
    caplog,
    check,
    method,
    found,
):
    """Nobody would ever remove it: the alert for a corruption would go on until the service is restarted."""
    async with running(zoo, **EVERYTHING) as client:

        def unloading(*_: object) -> object:
            client.app.state.services.changes.unload("tiny-bireal", force=True)
            return found

        monkeypatch.setattr(check, method, unloading)
        await ask_and_wait(client, 0)
        assert "tiny-bireal@1 is broken" in caplog.text, "what was found is told all the same"
        assert shown(client, "bireal_parity_ok") == []
        assert shown(client, "bireal_parity_layer_sign_agreement") == []


# --- the checks, on the shipped network ------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(("step", "outcome"), [("_compare", "dropped"), ("_exact_checks", "ok")])
async def test_a_check_that_is_cut_off_by_the_end_counts_once(anyio_backend, zoo, op, monkeypatch, step, outcome):  # noqa: F811  a fixture
    begun = asyncio.Event()

    async def wait(*_) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(ParityMonitor, step, wait)
    async with running(zoo, **EVERYTHING) as client:
        await ask(client)
        await asyncio.wait_for(begun.wait(), 30)
    counts = {each: metric(client, "bireal_parity_images_total", **MODEL, outcome=each) for each in OUTCOMES}
    assert counts == {each: float(each == outcome) for each in OUTCOMES}


def _flip_in_file(folder: Path) -> None:
    """Flips one weight bit of the first binary convolution, and makes the card's sha256 fit again."""
    model = read_model(folder / "model.onnx")
    node = next(node for node in PackedGraph(model).custom_nodes if node.op == BCONV)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input(1))
    weight = numpy_helper.to_array(tensor).copy()
    weight.view(np.uint32).reshape(-1)[0] ^= 1
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    card = yaml.safe_load((folder / "card.yaml").read_text())
    card["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "card.yaml").write_text(yaml.safe_dump(card))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Real photographs, as the shipped network gets them: uint8 [N, H, W, 3]."""
    card = shipped()
    task = TASKS["classify"]
    found = [pictures.astronaut(), pictures.chelsea(), pictures.coffee(), pictures.rocket()]
    prepared = [task.preprocess(of_pixels(pixels), card).tensor for pixels in found]
    prepared.append(task.preprocess(picture(500, 375), card).tensor)
    return np.stack(prepared)


@pytest.mark.timeout(900)  # some minutes where other work has the CPU
def test_one_bit_of_the_shipped_network_shows_in_its_answers(images, op):
    """Rounding stays below 1e-6 of the logits' range; one wrong bit does not on every image, if on some it vanishes."""
    card = shipped()
    binary = backend_for("binary").load(card, "binary", intra_op_threads=1)
    reference = backend_for("reference").load(card, "reference", intra_op_threads=1)
    expected = [reference.run(image[None])[0] for image in images]

    def differences() -> list[float]:
        runs = zip(images, expected, strict=True)
        return [compare_outputs("classify", binary.run(image[None])[0], logits).difference for image, logits in runs]

    intact = sorted(differences())
    assert intact[len(intact) // 2] < 1e-6, "the median: a sign within rounding of zero may fall either way"
    probe = Probe(card, intra_op_threads=1)

    def probed() -> bool:
        return probe.same([binary.run(image[None])[0] for image in probe.images])

    assert probed()
    for layer in (1, 8, 9, 12, -1):
        with flipped_bit(card, binary, images[0], layer):
            assert not probed(), f"layer {layer}"
            assert max(differences()) > 2e-6, f"layer {layer}"
    assert probed()


def test_every_layer_of_the_shipped_network_is_checked_alone(images, op):
    findings = LayerCheck(shipped()).run(images[0])
    assert all(finding.exact for finding in findings)
    shares = [finding.sign_agreement for finding in findings if finding.sign_agreement is not None]
    assert len(shares) == 16, "the binary convolutions of 18 layers"
    assert min(shares) > 0.999


@pytest.mark.parametrize("when", ["before", "while it is loaded"])
def test_a_probe_of_a_file_that_is_not_intact_is_refused(tmp_path, monkeypatch, when):
    folder = tmp_path / "bireal18-tiny100" / "1"
    shutil.copytree(shipped().directory, folder)

    def damage() -> None:
        data = bytearray((folder / "model.onnx").read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "model.onnx").write_bytes(bytes(data))

    class Damaging:
        def load(self, *arguments, **options):
            damage()
            return backend_for("binary").load(*arguments, **options)

    if when == "before":
        damage()
    else:
        monkeypatch.setattr("service.parity.checks.backend_for", lambda _: Damaging())
    with pytest.raises(ModelBrokenError, match="sha256"):
        Probe(Card.load(folder), intra_op_threads=1)


def test_outputs_are_compared_relative_to_their_range():
    reference = np.array([0.0, 4.0, 2.0], np.float32)
    same = compare_outputs("classify", reference.copy(), reference)
    assert (same.agree, same.difference) == (True, 0.0)
    moved = compare_outputs("classify", np.array([0.0, 1.0, 2.0], np.float32), reference)
    assert (moved.agree, moved.difference) == (False, 0.75)
    depth = compare_outputs("depth", np.full((2, 2), 2.0, np.float32), np.full((2, 2), 4.0, np.float32))
    assert depth.agree is False


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("task", ["classify", "depth"])
@pytest.mark.parametrize("side", ["binary", "reference"])
@pytest.mark.filterwarnings("error")
def test_a_value_that_no_network_computes_is_the_largest_difference(value, task, side):
    """As a flipped bit of an exponent gives: not a sum of differences that is useless from then on."""
    outputs = {name: np.array([[1.0, 4.0], [2.0, 3.0]], np.float32) for name in ("binary", "reference")}
    outputs[side][1, 0] = value
    if task == "classify":
        outputs = {name: output.ravel() for name, output in outputs.items()}
    found = compare_outputs(task, outputs["binary"], outputs["reference"])
    assert found.agree is False
    if side == "binary" or not np.isfinite(value):
        assert found.difference == LARGEST_DIFFERENCE
    else:
        assert 0.9 < found.difference <= 1.0, "a share of the reference's own range"
