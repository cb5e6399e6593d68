"""Verifies that an exported graph computes what the PyTorch network does.

A packed graph is compared through its float reference. Layers agree up to rounding errors, but these can flip the sign
of a value near zero and change everything after it, so outputs are compared statistically. The service's audit compares
the bit-packed operators with the reference exactly, layer by layer.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from models.arch import BiRealNet, DepthNet, ResNet
from models.data.normalise import normalise
from models.export.convert import check_finite, to_onnx
from models.export.verify_layers import changed_constants, head_of, layer_errors
from models.train.depth import FX_BASELINE
from service.backends.derive import derive_reference
from service.backends.dialect import DOMAIN

# Correlation of logits or log depths. A wrong layout gives far less. In a 1-bit network, signs flipped by rounding
# errors near zero add up over fifty layers.
MIN_CORRELATION = {"full": 0.999, "binary": 0.95}
# A correlation hardly sees a lost bias or a wrong scale, so differences are limited too, in standard deviations of the
# network's outputs (`spread_of`). Correct float32 exports of full-precision networks (random classifiers of 18 to 152
# layers, the shipped networks) differ by at most 6e-6.
MAX_DIFFERENCE = 1e-3
# In a 1-bit network a flipped sign changes everything after it, so only the smallest quarter of the differences counts:
# it comes from images without a flip, and a fault spares none. On 64x64 images, six of eight had no flip even in a
# random network of 152 layers, and the median was below 6e-7 (random networks of 18, 34, 50 and 152 layers; the shipped
# ones also at their own sizes). Larger images have more values that can flip: the median of a random depth network is
# 3e-4 at 160x608. Hence `SMALL`. The least fault tried, bireal18-tiny100 without the bias of its classifier, gives
# 6e-3.
QUANTILE = 0.25
SMALL = 64
# Median difference of a shipped full-precision model, whose weights are float16: at most 3e-4, in random networks.
MAX_SHIPPED_DIFFERENCE = 0.01
# Largest difference of the head alone, given the network's own features. 5e-7 in float32; with float16 weights 8e-4
# in the shipped networks and 2e-3 in a random depth network.
MAX_HEAD_DIFFERENCE = {"float32": 1e-3, "shipped": 0.01}
# Relative error of a layer stored in fewer bits. Rounding to 8 bits causes 0.01, in random networks and in the zoo.
MAX_LAYER_ERROR = 0.1
IMAGES = 8

Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]


class VerificationError(RuntimeError):
    """The exported graph's outputs disagree with PyTorch's."""


def smooth_images(count: int, height: int, width: int, seed: int = 0) -> Images:
    """Photo-like test images, dominated by low frequencies: uint8 [count,height,width,3]."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, height, width)
    for cells in (2, 4, 8, 16, 32):
        noise = torch.rand(count, 3, cells, cells, generator=generator) - 0.5
        total += torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic") / cells**0.5
    images = ((total / total.std() * 60.0) + 120.0).clamp(0, 255).byte()
    return images.permute(0, 2, 3, 1).contiguous().numpy()


@torch.no_grad()
def verify(network: BiRealNet | ResNet | DepthNet, model: onnx.ModelProto, height: int, width: int) -> dict[str, float]:
    """Compare PyTorch's outputs on synthetic images with those of two exports.

    A float32 export of the network must agree with PyTorch, which verifies wiring, folding and packing. The shipped
    model (float16 storage, integer stem, 8-bit 1x1 convolutions) must agree with it too: a full-precision one in its
    outputs, and a packed one layer by layer, since rounding flips signs. The effect of that on the outputs is measured
    on real data, and only printed here. The heads of both exports are compared on their own as well.

    Returns:
        ``correlation`` and ``max_difference`` of the float32 export's outputs (log depth for depth networks),
        ``shipped_correlation``, and, of a packed model, the largest ``layer_error`` (see `layer_errors`).

    Raises:
        ValueError: a tensor of the network is not finite.
        VerificationError: a correlation is below `MIN_CORRELATION`, a difference or a layer's error is above its limit,
            a constant that is not rounded differs, or an output is not finite.
    """
    check_finite(network)
    images = smooth_images(IMAGES, height, width)
    expected = answers_of(network, images)
    _check_finite(expected, "the network's own outputs, in PyTorch,", "its weights or BatchNorm statistics are damaged")
    exact_model = _exact(network, height, width)
    exact, shipped = outputs_of(exact_model, images), outputs_of(model, images)
    backbone = network.encoder if isinstance(network, DepthNet) else network
    packed = backbone.config.binary
    least = MIN_CORRELATION["binary" if packed else "full"]
    correlation, shipped_correlation = (
        float(np.corrcoef(expected.ravel(), outputs.ravel())[0, 1]) for outputs in (exact, shipped)
    )
    _check_correlation("the exported graph's", correlation, least)
    _check_finite(shipped, "the shipped model's outputs", "a layer was rounded incorrectly")
    agreement = {
        "correlation": correlation,
        "max_difference": float(np.abs(expected - exact).max()),
        "shipped_correlation": shipped_correlation,
    }
    if packed:
        _check_quantile(network, expected, exact, height, width)
        agreement["layer_error"] = _check_layers(model, exact_model, images[:1])
    else:
        _check_correlation("the shipped model's", shipped_correlation, least)
        largest = float(np.abs(expected - exact).max() / spread_of(expected))
        _check_difference("the exported graph's outputs", largest, MAX_DIFFERENCE)
        middle = float(np.median(np.abs(expected - shipped)) / spread_of(expected))
        _check_difference("the shipped model's outputs", middle, MAX_SHIPPED_DIFFERENCE)
    for kind, graph in (("float32", exact_model), ("shipped", model)):
        error = head_difference(network, graph, images[:1]) / spread_of(expected)
        _check_difference(f"the head of the {kind} model gives outputs that", error, MAX_HEAD_DIFFERENCE[kind])
    return agreement


def spread_of(outputs: Outputs) -> float:
    """Standard deviation of outputs, but at least a thousandth of the largest, of which rounding takes some 1e-7.

    An untrained depth network answers almost the same everywhere: its outputs deviate by 0.0004 of their mean.
    """
    return float(max(outputs.std(), 1e-3 * np.abs(outputs).max()))


def _exact(network: BiRealNet | ResNet | DepthNet, height: int, width: int) -> onnx.ModelProto:
    return to_onnx(network, height, width, stem_precision="float32", pointwise_precision="float32", half=False)


def _check_finite(outputs: Outputs, what: str, cause: str) -> None:
    if not np.isfinite(outputs).all():
        raise VerificationError(f"{what} are not finite: {cause}")


def _check_correlation(whose: str, correlation: float, least: float) -> None:
    if not correlation >= least:
        raise VerificationError(
            f"{whose} outputs have a correlation of {correlation:.4f} with PyTorch's, below the minimum "
            f"of {least}: a layer was exported incorrectly"
        )


def _check_difference(what: str, difference: float, limit: float) -> None:
    if not difference <= limit:
        raise VerificationError(
            f"{what} differ from PyTorch's by {difference:.2g} of their standard deviation, more than {limit:g}: a "
            "bias, scale or layer was exported incorrectly"
        )


def _check_quantile(
    network: BiRealNet | ResNet | DepthNet, expected: Outputs, exact: Outputs, height: int, width: int
) -> None:
    """Limit the smallest quarter of a packed graph's differences, on images of at most `SMALL` pixels."""
    side = min(height, SMALL), min(width, SMALL)
    if side != (height, width):
        images = smooth_images(IMAGES, *side)
        expected, exact = answers_of(network, images), outputs_of(_exact(network, *side), images)
    difference = float(np.quantile(np.abs(expected - exact), QUANTILE) / spread_of(expected))
    _check_difference("the exported graph's outputs", difference, MAX_DIFFERENCE)


def _check_layers(model: onnx.ModelProto, exact: onnx.ModelProto, images: Images) -> float:
    """Compare the layers of a shipped packed model with the float32 export's; return the largest error."""
    errors = layer_errors(model, exact, images)
    wrong = [f"{layer} ({error:.2g})" for layer, error in errors.items() if not error <= MAX_LAYER_ERROR]
    if wrong:
        raise VerificationError(
            f"layers of the shipped model differ from their float32 form by more than {MAX_LAYER_ERROR:g} of their "
            f"values: {', '.join(wrong)}: they were rounded incorrectly"
        )
    if changed := changed_constants(model, exact):
        raise VerificationError(
            f"constants of the shipped model that are not rounded differ from the float32 export's: "
            f"{', '.join(changed)}: these layers were exported incorrectly"
        )
    return max(errors.values())


@torch.no_grad()
def answers_of(network: BiRealNet | ResNet | DepthNet, images: Images) -> Outputs:
    """PyTorch's outputs for images uint8 [N,H,W,3]: logits [N,classes] or log depths [N,H,W]."""
    outputs: Outputs = network(normalise(torch.from_numpy(images).permute(0, 3, 1, 2))).numpy()
    return np.log(FX_BASELINE / outputs) if isinstance(network, DepthNet) else outputs


def outputs_of(model: onnx.ModelProto, images: Images) -> Outputs:
    """A model's outputs, like those of `answers_of`, computed with standard operators."""
    return _run(model, {"image": images})


def _run(model: onnx.ModelProto, inputs: dict[str, NDArray[np.generic]]) -> Outputs:
    packed = any(node.domain == DOMAIN for node in model.graph.node)
    stock = derive_reference(model).model if packed else model
    session = ort.InferenceSession(stock.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, inputs)
    result: Outputs = np.log(output) if output.ndim == 3 else output
    return result


@torch.no_grad()
def head_difference(network: BiRealNet | ResNet | DepthNet, model: onnx.ModelProto, images: Images) -> float:
    """Largest difference of a graph's head alone (classifier or depth decoder) from PyTorch's, on the same features.

    Args:
        network: the network.
        model: its export, for the size of ``images``.
        images: uint8 [N,H,W,3], from which the network computes the features.

    Returns:
        The difference in logits or log depths.

    Raises:
        ValueError: the graph has no head as `models.export.heads` writes it.
    """
    x = normalise(torch.from_numpy(images).permute(0, 3, 1, 2))
    if isinstance(network, DepthNet):
        maps = network.encoder.features(x)
        expected = np.log(FX_BASELINE / network.decode(maps).numpy())
        packed = network.encoder.config.binary
    else:
        maps = network.features(x)[-1:]
        assert network.fc is not None
        expected = network.fc(maps[0].mean(dim=(2, 3))).numpy()
        packed = network.config.binary
    head, names = head_of(model)
    if len(names) != len(maps):
        raise ValueError(f"the graph's head reads {len(names)} feature maps, not {len(maps)}")
    layout = (0, 2, 3, 1) if packed else (0, 1, 2, 3)
    inputs = {n: m.permute(layout).contiguous().numpy() for n, m in zip(names, reversed(maps), strict=True)}
    return float(np.abs(_run(head, inputs) - expected).max())
