"""Initialise a network from another network's weights, e.g. a 1-bit from a real-valued one (paper Sec. 3.4.3)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from models.arch.bireal import BiRealBottleneck, BiRealNet
from models.arch.config import ArchConfig
from models.arch.depth import DepthNet
from models.arch.resnet import ResNet
from models.train import checkpoint
from models.train.deepen import can_deepen, deepen


def initialise_from(network: nn.Module, path: Path) -> list[str]:
    """Copy matching tensors from the checkpoint at ``path``; return the names of those that stay randomly initialised.

    A Bi-Real net takes a ResNet's weights layer by layer (stem, convolutions, BatchNorms, downsampling, scores). A
    depth network takes a classifier's encoder, and a classifier a depth network's. A deeper network of basic blocks
    takes a shallower one of its kind, and computes the same (`models.train.deepen`). XNOR-Net's BatchNorms (before the
    sign) and ABC-Net's activation bases have no counterpart and keep their initial values.

    Raises:
        ValueError: no tensor matches.
    """
    payload = checkpoint.load(path)
    source: dict[str, Tensor] = payload["network"]
    source_arch = ArchConfig(**payload["arch"])
    if isinstance(network, DepthNet) and source_arch.task == "classify":
        source = {f"encoder.{k}": v for k, v in source.items()}
    if not isinstance(network, DepthNet) and source_arch.task == "depth":
        source = {k.removeprefix("encoder."): v for k, v in source.items() if k.startswith("encoder.")}
    encoder = network.encoder if isinstance(network, DepthNet) else network
    if isinstance(encoder, BiRealNet) and source_arch.standard_resnet:
        source = _resnet_to_bireal(source, encoder, "encoder." if isinstance(network, DepthNet) else "")
    elif isinstance(network, BiRealNet | ResNet) and can_deepen(source_arch, network.config):
        source = deepen(source, source_arch, network.config)
    own = network.state_dict()
    fitting = {k: v for k, v in source.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise ValueError(f"{path} has no weights that match the network: wrong depth or width?")
    network.load_state_dict(fitting, strict=False)
    return sorted(own.keys() - fitting.keys())


def _resnet_to_bireal(source: dict[str, Tensor], encoder: BiRealNet, prefix: str) -> dict[str, Tensor]:
    """Rename a ResNet's keys to those of the 1-bit network of the same depth."""
    parts = ("reduce", "body", "expand")
    renamed: dict[str, Tensor] = {}
    for key, value in source.items():
        head = f"{prefix}stages."
        if not key.startswith(head):
            renamed[key] = value
            continue
        stage, block, kind, *rest = key[len(head) :].split(".")
        if encoder.config.structure != "bireal":
            # same blocks; the plain structure has no downsampling and ignores those weights
            base = f"{head}{stage}.{block}"
            if kind == "downsample":
                renamed[".".join([base, "downsample.conv_bn", *rest])] = value
                continue
            index, layer, *leaf = rest
            renamed[".".join([base, "layers", index, "conv" if layer == "0" else "bn", *leaf])] = value
        elif encoder.config.bottleneck:
            base = f"{head}{stage}.{block}"
            if kind == "downsample":
                renamed[".".join([base, "downsample.conv_bn", *rest])] = value
                continue
            index, layer, *leaf = rest
            module = encoder.stages[int(stage)][int(block)]  # type: ignore[index]  # a Sequential of blocks
            assert isinstance(module, BiRealBottleneck)
            if module.real_reduce and index == "0":
                renamed[".".join([base, "reduce", layer, *leaf])] = value
            else:
                renamed[".".join([base, parts[int(index)], "conv" if layer == "0" else "bn", *leaf])] = value
        else:
            # one ResNet block corresponds to two Bi-Real blocks, the first of which has the downsampling
            if kind == "downsample":
                renamed[".".join([f"{head}{stage}.{2 * int(block)}.downsample.conv_bn", *rest])] = value
                continue
            index, layer, *leaf = rest
            base = f"{head}{stage}.{2 * int(block) + int(index)}.body"
            renamed[".".join([base, "conv" if layer == "0" else "bn", *leaf])] = value
    return renamed
