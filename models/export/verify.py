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
from models.export.convert import to_onnx
from models.export.verify_layers import layer_errors
from models.train.depth import FX_BASELINE
from service.backends.derive import derive_reference
from service.backends.dialect import DOMAIN

# Correlation of logits or log depths. A wrong fold or layout gives far less. In a 1-bit network, signs flipped by
# rounding errors near zero add up over fifty layers.
MIN_CORRELATION = {"full": 0.999, "binary": 0.95}
# Relative error of a layer stored in fewer bits. Rounding to 8 bits causes 0.01, in random networks and in the zoo.
MAX_LAYER_ERROR = 0.1
IMAGES = 8

Images = NDArray[np.uint8]


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
    on real data, and only printed here.

    Returns:
        ``correlation`` and ``max_difference`` of the float32 export's outputs (log depth for depth networks),
        ``shipped_correlation``, and, of a packed model, the largest ``layer_error`` (see `layer_errors`).

    Raises:
        VerificationError: a correlation is below `MIN_CORRELATION`, a layer's error is above `MAX_LAYER_ERROR`, or
            an output is not finite.
    """
    images = smooth_images(IMAGES, height, width)
    expected = network(normalise(torch.from_numpy(images).permute(0, 3, 1, 2))).numpy()
    if isinstance(network, DepthNet):
        expected = np.log(FX_BASELINE / expected)
    _check_finite(expected, "the network's own outputs, in PyTorch,", "its weights or BatchNorm statistics are damaged")
    exact_model = to_onnx(network, height, width, stem_precision="float32", pointwise_precision="float32", half=False)
    exact, shipped = _outputs(exact_model, images), _outputs(model, images)
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
    if not packed:
        _check_correlation("the shipped model's", shipped_correlation, least)
        return agreement
    errors = layer_errors(model, exact_model, images[:1])
    wrong = [f"{layer} ({error:.2g})" for layer, error in errors.items() if not error <= MAX_LAYER_ERROR]
    if wrong:
        raise VerificationError(
            f"layers of the shipped model differ from their float32 form by more than {MAX_LAYER_ERROR:g} of their "
            f"values: {', '.join(wrong)}: they were rounded incorrectly"
        )
    return agreement | {"layer_error": max(errors.values())}


def _check_finite(outputs: NDArray[np.float32], what: str, cause: str) -> None:
    if not np.isfinite(outputs).all():
        raise VerificationError(f"{what} are not finite: {cause}")


def _check_correlation(whose: str, correlation: float, least: float) -> None:
    if not correlation >= least:
        raise VerificationError(
            f"{whose} outputs have a correlation of {correlation:.4f} with PyTorch's, below the minimum "
            f"of {least}: a layer was exported incorrectly"
        )


def _outputs(model: onnx.ModelProto, images: Images) -> NDArray[np.float32]:
    """A model's outputs, computed with standard operators (log depth for depth networks)."""
    packed = any(node.domain == DOMAIN for node in model.graph.node)
    stock = derive_reference(model).model if packed else model
    session = ort.InferenceSession(stock.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"image": images})
    result: NDArray[np.float32] = np.log(output) if output.ndim == 3 else output
    return result
