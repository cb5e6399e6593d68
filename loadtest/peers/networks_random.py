"""Exported networks of models.arch with random weights; needs PyTorch (the extra `train`)."""

from __future__ import annotations

import onnx
import torch
from torch import nn

from loadtest.peers.photos import photos
from models.arch import ArchConfig, build
from models.arch.resnet import BasicBlock, Bottleneck
from models.data.normalise import normalise
from models.export.convert import to_onnx

SEED = 0
STATISTICS_IMAGES = 4

# BatchNorm's weight at the end of a branch beside a shortcut. With 1 and random weights, noise grows from block to
# block: because of signs flipped by rounding, two correct float runtimes have a correlation of only 0.95 after fifty
# binary layers, and 8-bit depth maps one of 0.77. Trained networks are less sensitive, and outputs must be comparable.
BRANCH_GAIN = 0.1


def random_graphs(
    height: int, width: int, *, depth: int = 18, task: str = "classify", num_classes: int = 1000, scale: float = 1.0
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Full-precision and Bi-Real network of one architecture.

    BatchNorm takes its statistics from one synthetic batch, so that activations have the range of a trained network's,
    which 8-bit quantisation and the comparison of outputs need.

    Args:
        height: input height, pixels.
        width: input width, pixels.
        depth: number of layers: 18, 34, 50 or 152.
        task: `classify` or `depth`.
        num_classes: number of classes of a classifier.
        scale: width multiplier on the paper's channel counts.

    Returns:
        (full, packed); the weights of the first are stored as float32.
    """
    graphs = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(SEED)
        images = normalise(torch.from_numpy(photos(STATISTICS_IMAGES, height, width)).permute(0, 3, 1, 2))
        for method in ("none", "bireal"):
            config = ArchConfig(
                depth=depth,
                method=method,
                task=task,
                num_classes=num_classes,
                width=scale,
                max_disparity_px=90.0 if task == "depth" else 0.0,
            )
            network = build(config)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0
                last = _last_norm(module)
                if last is not None:
                    nn.init.constant_(last.weight, BRANCH_GAIN)
            network.train()(images)
            graphs.append(to_onnx(network.eval(), height, width, half=method != "none"))
    full, packed = graphs
    return full, packed


def _last_norm(module: nn.Module) -> nn.BatchNorm2d | None:
    """The BatchNorm before a shortcut's addition, if the module is a branch with a shortcut."""
    if isinstance(module, BasicBlock | Bottleneck):
        conv_bn = module.convs[-1]
        assert isinstance(conv_bn, nn.Sequential) and isinstance(conv_bn[1], nn.BatchNorm2d)
        return conv_bn[1]
    own = getattr(module, "bn", None)  # a binary layer: convolution and BatchNorm
    return own if isinstance(own, nn.BatchNorm2d) else None
