"""Networks: shapes, parameter counts of the official code, and the paper's accounting."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from models import accounting
from models.accounting import PRINTED, cost_of, main, rule_bits, table
from models.arch import ArchConfig, build
from models.arch.bireal import BiRealBottleneck, BiRealNet
from models.arch.layers import avg_pool2
from models.binarize.base import BinaryConv2d
from models.binarize.functional import leaky_clip
from models.export.convert import to_onnx

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("method", ["none", "bireal"])
@pytest.mark.parametrize("depth", [18, 50])
def test_feature_maps_of_odd_images(depth: int, method: str) -> None:
    network = build(ArchConfig(depth=depth, method=method, num_classes=7, width=0.25)).eval()
    with torch.no_grad():
        maps = network.features(torch.randn(2, 3, 75, 97))  # type: ignore[operator]
        logits = network(torch.randn(2, 3, 75, 97))
    assert [tuple(m.shape[2:]) for m in maps] == [(19, 25), (10, 13), (5, 7), (3, 4)]
    assert logits.shape == (2, 7)


def test_average_pool_of_odd_maps_counts_what_exists() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert avg_pool2(x)[0, 0].tolist() == [[2.0, 3.5], [6.5, 8.0]]


def test_basic_network_has_a_shortcut_around_every_binary_convolution() -> None:
    network = build(ArchConfig(depth=18, num_classes=10))
    assert isinstance(network, BiRealNet)
    blocks = [block for stage in network.stages for block in stage]  # type: ignore[union-attr]
    assert len(blocks) == 16
    assert sum(isinstance(m, BinaryConv2d) for m in network.modules()) == 16
    assert sum(block.downsample is not None for block in blocks) == 3
    network.eval()
    for block, channels in ((blocks[0], 64), (blocks[3], 64), (blocks[4], 64), (blocks[5], 128)):
        x = torch.randn(1, channels, 6, 6)
        shortcut = x if block.downsample is None else block.downsample.conv_bn(avg_pool2(x))
        assert torch.equal(block(x), block.body(x) + shortcut)


def assert_streams(streams: tuple[torch.Tensor, torch.Tensor], o2: torch.Tensor, o3: torch.Tensor) -> None:
    assert torch.equal(streams[0], o2)
    assert torch.equal(streams[1], o3)


def test_bottleneck_carries_two_streams() -> None:
    network = build(ArchConfig(depth=50, num_classes=10, width=0.25)).eval()
    assert isinstance(network, BiRealNet)
    first = network.stages[0][0]  # type: ignore[index]  # a ModuleList
    assert isinstance(first, BiRealBottleneck)
    x = torch.randn(1, 16, 8, 8) * 2
    o1 = first.reduce(leaky_clip(x))
    o2 = first.body(o1) + o1
    assert_streams(first((x, x)), o2, first.expand(o2) + first.downsample(x))  # type: ignore[misc]  # None without downsampling
    assert o2.shape[1] == 16
    inner, strided = network.stages[0][1], network.stages[1][0]  # type: ignore[index]  # a ModuleList
    x1, x2 = torch.randn(1, 16, 8, 8), torch.randn(1, 64, 8, 8)
    o1 = inner.reduce(x2) + x1
    o2 = inner.body(o1) + o1
    assert_streams(inner((x1, x2)), o2, inner.expand(o2) + x2)
    o1 = strided.reduce(x2) + strided.match(x1)
    o2 = strided.body(o1) + avg_pool2(o1)
    assert_streams(strided((x1, x2)), o2, strided.expand(o2) + strided.downsample.conv_bn(avg_pool2(x2)))
    assert o2.shape == (1, 32, 4, 4)
    # the official 50-layer code has 47 binary convolutions: 16 blocks of 3 less the first real 1x1
    assert sum(isinstance(m, BinaryConv2d) for m in network.modules()) == 47


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (34, 21_797_672)])
def test_parameter_counts_are_those_of_the_official_code(depth: int, parameters: int) -> None:
    with torch.device("meta"):
        network = build(ArchConfig(depth=depth))
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.fixture(scope="module")
def computed() -> list[dict[str, Any]]:
    """The table, counted once: twelve networks take a while to build, even without values."""
    return table()


def test_table_5(computed: list[dict[str, Any]]) -> None:
    """Counting BatchNorm's two parameters and the bias of the classifier, as the paper's rule says."""
    rows = {row["name"]: row for row in computed}
    expected = {"bireal18": (33.5, 1.0495e10), "resnet18": (374.1, 1.161e11), "bireal34": (43.9, 1.2345e10)}
    expected |= {"resnet34": (697.5, 2.345e11), "bireal50": (182.5, 4.01e10), "bireal152": (220.2, 4.75e10)}
    for name, (memory, bops) in expected.items():
        assert rows[name]["memory_mbit"] == pytest.approx(memory, abs=0.06), name
        assert rows[name]["bops"] == pytest.approx(bops, rel=2e-3), name
    assert rows["bireal18"]["bops_saving"] == pytest.approx(11.06, abs=0.01)
    assert rows["bireal34"]["bops_saving"] == pytest.approx(18.99, abs=0.01)
    assert rows["xnornet18"]["bops_saving"] == pytest.approx(10.86, abs=0.01)
    assert rows["xnornet34"]["bops_saving"] == pytest.approx(18.47, abs=0.01)
    for (depth, method), printed in PRINTED.items():
        row = rows[f"{'resnet' if method == 'none' else method}{depth}"]
        assert row["memory_mbit"] == pytest.approx(printed["memory_mbit"], rel=0.006)
        assert row["bops"] == pytest.approx(printed["bops"], rel=0.011)
        assert row["printed_memory_mbit"] == printed["memory_mbit"]
        if method != "none":
            assert row["memory_saving"] == pytest.approx(printed["memory_saving"], rel=0.006)
            assert row["bops_saving"] == pytest.approx(printed["bops_saving"], abs=0.01)


def test_the_table_says_where_the_paper_cuts_off(
    computed: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounting, "table", lambda: computed)
    assert main([]) == 0
    told = capsys.readouterr().out
    assert "bireal18 1.0495e+10 as 1.04e+10" in told
    assert "bireal34 1.2345e+10 as 1.24e+10" in told
    assert "misprints of 1.24e10" in told
    rows = {row["name"]: row["differs"] for row in computed}
    assert rows["xnornet18"] == ["memory_mbit", "memory_saving"], "its BOPs and saving are printed as they round"
    assert rows["resnet152"] == []


def test_one_network_is_counted_by_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    fields = ["--depth", "50", "--method", "binarynet", "--structure", "res", "--task", "depth", "--size", "160x608"]
    assert main(fields) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["binary_params"], told["binary_macs"]) == (20_676_608, 6_997_934_080)
    assert told["bops"] == 64 * told["real_macs"] + told["binary_macs"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--size=7"], "give one number or HEIGHTxWIDTH"),
        (["--structure=x"], "structure 'x' is not one of"),
        (["--depth=0"], "depth 0 is not one of"),
        (["--width=0"], "width 0: the stem's 64 channels times this must be at least 1"),
        (["--width=nan"], "width nan"),
        (["--classes=0"], "0 classes: a classifier needs at least 1"),
        (["--task=depth", "--size=100"], "--size 100: a depth network needs multiples of 32"),
        (["--method=x"], "unknown binarisation method 'x'"),
        (["--option=x=1"], "--option x=1: the options of bireal are: gradient, update"),
        (["--option=update"], "unknown weight update ''"),
        (["--method=xnornet", "--option=k_map=1"], "k_map must be true or false"),
        (["--method=abcnet", "--option=weight_bases=two"], "weight_bases must be a whole number"),
        (["--method=none", "--option=k_map=true"], "unknown binarisation method 'none'"),
        (["--graph=README.md"], "README.md is not a graph written by models.export"),
        (["--graph=none.onnx"], "no graph at none.onnx"),
    ],
)
def test_mistakes_on_the_command_line_are_said(
    wrong: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    network = [] if wrong[0].startswith("--graph") else ["--depth", "18"]
    assert main([*network, *wrong]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_methods_options_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*fields: str) -> dict[str, Any]:
        assert main([*fields, "--width", "0.25"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    one = told("--depth=18", "--method=abcnet", "--option=weight_bases=1", "--option=activation_bases=1")
    several = told("--depth=18", "--method=abcnet", "--option=weight_bases=3", "--option=activation_bases=2")
    assert several["binary_macs"] == 6 * one["binary_macs"]
    with_k, without = (
        told("--depth=18", "--method=xnornet"),
        told("--depth=18", "--method=xnornet", "--option=k_map=false"),
    )
    assert with_k["real_macs"] > without["real_macs"]
    text, code = told("--depth=50", "--binary-first-1x1"), told("--depth=50")
    assert text["binary_params"] > code["binary_params"]
    assert text["real_macs"] < code["real_macs"]


def test_a_graph_of_xnor_net_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ArchConfig(depth=18, method="xnornet", structure="res", num_classes=4, width=0.125)
    onnx.save(to_onnx(build(config).eval(), 64, 64), tmp_path / "x.onnx")  # type: ignore[arg-type]
    assert main(["--graph", str(tmp_path / "x.onnx")]) == 0
    told, network = json.loads(capsys.readouterr().out), cost_of(config, 64, 64)
    assert told["binary_macs"] == network.binary_macs
    assert told["real_macs"] < network.real_macs
    assert "XNOR-Net" in told["note"]


def test_the_page_has_the_savings_that_differ(computed: list[dict[str, Any]]) -> None:
    page = (ROOT / "docs" / "paper.md").read_text()
    rows = [row for row in computed if "memory_saving" in row["differs"]]
    for figure in ("memory_saving", "printed_memory_saving"):
        first, second, third, fourth = (f"{row[figure]:.2f}" for row in rows)
        assert f"{first}, {second}, {third} and {fourth}" in page


@pytest.mark.parametrize(("depth", "method"), sorted(PRINTED))
def test_the_printed_memory_is_explained_by_one_constant(depth: int, method: str) -> None:
    bits = rule_bits(ArchConfig(depth=depth, method=method))
    assert bits / 1e6 == pytest.approx(PRINTED[depth, method]["memory_mbit"], abs=0.051)


def test_bases_multiply_the_binary_work() -> None:
    plain = cost_of(ArchConfig(num_classes=10, width=0.25), 32, 32)
    options = {"weight_bases": 3, "activation_bases": 2}
    several = cost_of(ArchConfig(method="abcnet", options=options, num_classes=10, width=0.25), 32, 32)
    assert several.binary_params == 3 * plain.binary_params
    assert several.binary_macs == 6 * plain.binary_macs
    channels = 4 * (16 + 32 + 64 + 128)
    assert several.real_params - plain.real_params == 3 * channels + 16 * 2 * 2  # alpha; shifts and scales


def test_cost_scales_with_the_image() -> None:
    config = ArchConfig(depth=18, num_classes=100)
    small, large = cost_of(config, 64, 64), cost_of(config, 128, 128)
    assert large.binary_macs == 4 * small.binary_macs
    assert large.binary_params == small.binary_params == 10_985_472


def test_depth_network_stays_in_its_range() -> None:
    config = ArchConfig(depth=50, task="depth", width=0.25, max_disparity_px=90.0)
    network = build(config).eval()
    with torch.no_grad():
        disparity = network(torch.randn(2, 3, 64, 96))
    assert disparity.shape == (2, 64, 96)
    assert disparity.min() >= 0.5
    assert disparity.max() <= 90.0


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="depth 20 is not one of"):
        ArchConfig(depth=20)
    with pytest.raises(ValueError, match="max_disparity_px must exceed"):
        build(ArchConfig(depth=50, task="depth"))
