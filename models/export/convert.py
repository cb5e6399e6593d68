"""Conversion of a trained network to its servable ONNX model."""

from __future__ import annotations

import onnx
import torch
from torch import nn

from models.arch import BiRealNet, DepthNet, ResNet
from models.command_line import listed
from models.export import full, heads, structures
from models.export.graph import BATCH, GraphBuilder, Shape, Tensor
from models.train.depth import FX_BASELINE


def check_finite(network: nn.Module) -> None:
    """Check all parameters and buffers. In a 1-bit network the outputs do not tell: the sign of NaN is an ordinary one.

    Raises:
        ValueError: one holds NaN or infinity; the message names the first few.
    """
    broken = [name for name, value in network.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"the network holds NaN or infinity in {listed(broken)}: its training diverged or its "
            "file is damaged; export an earlier checkpoint"
        )


def to_onnx(
    network: BiRealNet | ResNet | DepthNet,
    height: int,
    width: int,
    *,
    stem_precision: str = "int16",
    pointwise_precision: str = "int8",
    half: bool = True,
) -> onnx.ModelProto:
    """Export to a graph with input ``image`` uint8 [N,height,width,3].

    Args:
        network: the network, in its final phase; its BatchNorm statistics are folded into the graph.
        height: input height, a multiple of 32 for depth.
        width: input width, a multiple of 32 for depth.
        stem_precision: precision of a binary network's first convolution, ``int16``, ``int8`` or ``float32``.
        pointwise_precision: precision of a binary network's real-valued 1x1 convolutions, ``int8`` or ``float32``.
        half: whether to store large real-valued weights as float16 (computation stays in float32).

    Returns:
        A model with output ``logits`` float32 [N,classes] or ``depth`` float32 [N,height,width] in metres.

    Raises:
        ValueError: a tensor of the network holds a value that is not finite, a precision is unknown, or the size does
            not suit the network.
    """
    check_finite(network)
    network.eval()
    builder = GraphBuilder(half=half)
    image: Shape = (BATCH, height, width, 3)
    backbone = network.encoder if isinstance(network, DepthNet) else network
    binary = backbone.config.binary
    features: list[Tensor]
    if isinstance(backbone, BiRealNet):
        features = structures.encoder(
            builder, image, backbone, stem_precision=stem_precision, pointwise_precision=pointwise_precision
        )
    else:
        features = full.encoder(builder, image, backbone)
    if isinstance(network, DepthNet):
        if height % 32 or width % 32:
            raise ValueError(f"a depth network's height and width must be multiples of 32, not {height}x{width}")
        depth = heads.depth_decoder(builder, features, network, focal_baseline=FX_BASELINE, channels_last=binary)
        return builder.finish(image, depth, "depth")
    assert network.fc is not None
    logits = heads.classifier(builder, features[-1], network.fc, channels_last=binary)
    return builder.finish(image, logits, "logits")
