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
from models.train.depth import FX_BASELINE
from service.backends.derive import derive_reference
from service.backends.dialect import DOMAIN

# Correlation of logits or log depths. A wrong fold or layout gives far less. In a 1-bit network, signs flipped by
# rounding errors near zero add up over fifty layers.
MIN_CORRELATION = {"full": 0.999, "binary": 0.95}
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
    model (float16 storage, integer stem, 8-bit 1x1 convolutions) is compared for information only: the effect of its
    rounding is measured on real data.

    Returns:
        ``correlation`` and ``max_difference`` of the float32 export's outputs (log depth for depth networks), and
        ``shipped_correlation``.

    Raises:
        VerificationError: the float32 export's correlation is below `MIN_CORRELATION`.
    """
    images = smooth_images(IMAGES, height, width)
    expected = network(normalise(torch.from_numpy(images).permute(0, 3, 1, 2))).numpy()
    if isinstance(network, DepthNet):
        expected = np.log(FX_BASELINE / expected)
    exact = _outputs(
        to_onnx(network, height, width, stem_precision="float32", pointwise_precision="float32", half=False), images
    )
    shipped = _outputs(model, images)
    correlation = float(np.corrcoef(expected.ravel(), exact.ravel())[0, 1])
    backbone = network.encoder if isinstance(network, DepthNet) else network
    least = MIN_CORRELATION["binary" if backbone.config.binary else "full"]
    if not correlation >= least:
        raise VerificationError(
            f"the exported graph's outputs have a correlation of {correlation:.4f} with PyTorch's, below the minimum "
            f"of {least}: a layer was exported incorrectly"
        )
    return {
        "correlation": correlation,
        "max_difference": float(np.abs(expected - exact).max()),
        "shipped_correlation": float(np.corrcoef(expected.ravel(), shipped.ravel())[0, 1]),
    }


def _outputs(model: onnx.ModelProto, images: Images) -> NDArray[np.float32]:
    """A model's outputs, computed with standard operators (log depth for depth networks)."""
    packed = any(node.domain == DOMAIN for node in model.graph.node)
    stock = derive_reference(model).model if packed else model
    session = ort.InferenceSession(stock.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"image": images})
    result: NDArray[np.float32] = np.log(output) if output.ndim == 3 else output
    return result
