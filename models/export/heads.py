"""Heads on the stage outputs: the classifier, and the depth decoder of Garg et al. 2016."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto
from torch import nn

from models.arch.depth import MIN_DISPARITY_PX, DepthNet
from models.export.fold import batchnorm_affine, conv_weight
from models.export.graph import BATCH, Array, GraphBuilder, Shape, Tensor


def classifier(builder: GraphBuilder, features: Tensor, fc: nn.Linear, *, channels_last: bool) -> Tensor:
    """Global average pool and fully connected layer -> logits [N,classes]."""
    matrix = fc.weight.detach().double().numpy().T
    bias = builder.constant(fc.bias.detach().numpy().astype(np.float32), "fc_bias")
    if channels_last:
        shape: Shape = (BATCH, 1, 1, fc.in_features)
        (mean,) = builder.custom("GlobalMean", [features.name], [(shape, TensorProto.FLOAT)], "pooled")
        scores = _pointwise(builder, mean, matrix, bias, "fc")
        flat = builder.constant(np.array([0, fc.out_features], np.int64), "shape")
        return builder.op("Reshape", [scores.name, flat], (BATCH, fc.out_features), "logits")
    pooled = builder.op("ReduceMean", [features.name], (BATCH, fc.in_features), "pooled", axes=[2, 3], keepdims=0)
    weight = builder.weight(matrix, "fc_weight")
    return builder.op("Gemm", [pooled.name, weight, bias], (BATCH, fc.out_features), "logits")


def depth_decoder(
    builder: GraphBuilder, features: list[Tensor], network: DepthNet, *, focal_baseline: float, channels_last: bool
) -> Tensor:
    """Sum the score maps from coarse to fine and convert the sum to metres, [N,H,W].

    BatchNorm folds into the 1x1 weights. Bilinear upsampling preserves constants, so all biases are added once at the
    end. depth = focal_baseline / disparity with disparity = exp(log_min + log_span * sigmoid(total)).
    """
    bias = 0.0
    total: Tensor | None = None
    for feature, norm, score in zip(reversed(features), reversed(network.norms), reversed(network.scores), strict=True):
        assert isinstance(norm, nn.BatchNorm2d) and isinstance(score, nn.Conv2d) and score.bias is not None
        scale, shift = batchnorm_affine(norm)
        weight = conv_weight(score)[0, :, 0, 0]  # [C]
        bias += float(score.bias.item() + (weight * shift).sum())
        scored = _score(builder, feature, weight * scale, channels_last)
        if total is None:
            total = scored
        else:
            raised = _upsample(builder, total, 2)
            total = builder.op("Add", [scored.name, raised.name], scored.shape)
    assert total is not None
    total = _upsample(builder, total, 4)
    _, _, height, width = total.shape
    biased = builder.op("Add", [total.name, builder.constant(np.asarray(bias, np.float32), "score_bias")], total.shape)
    level = builder.op("Sigmoid", [biased.name], total.shape)
    span = builder.constant(np.asarray(-network.log_span, np.float32), "log_span")
    exponent = builder.op("Mul", [level.name, span], total.shape)
    ratio = builder.op("Exp", [exponent.name], total.shape)
    furthest = builder.constant(np.asarray(focal_baseline / MIN_DISPARITY_PX, np.float32), "furthest_m")
    depth = builder.op("Mul", [ratio.name, furthest], total.shape)
    shape = builder.constant(np.array([0, height, width], np.int64), "shape")
    return builder.op("Reshape", [depth.name, shape], (BATCH, height, width), "depth")


def _score(
    builder: GraphBuilder, feature: Tensor, weight: np.ndarray[tuple[int], np.dtype[np.float64]], last: bool
) -> Tensor:
    """1x1 convolution to one channel, as [N,1,h,w] in either layout."""
    if not last:
        batch, _, height, width = feature.shape
        kernel = builder.constant(weight.astype(np.float32)[None, :, None, None], "score_weight")
        return builder.op("Conv", [feature.name, kernel], (batch, 1, height, width), "score", kernel_shape=[1, 1])
    batch, height, width, _ = feature.shape
    product = _pointwise(builder, feature, weight[:, None], builder.constant(np.zeros(1, np.float32), "zero"), "score")
    shape = builder.constant(np.array([0, 1, height, width], np.int64), "shape")
    return builder.op("Reshape", [product.name, shape], (batch, 1, height, width))


def _pointwise(builder: GraphBuilder, x: Tensor, matrix: Array, bias: str, hint: str) -> Tensor:
    """The custom operator's real-valued 1x1 convolution in float32: x [N,H,W,C] times [C,O], plus bias [O]."""
    out = matrix.shape[1]
    inputs = [
        x.name,
        builder.real_constant(matrix, f"{hint}_weight"),
        builder.constant(np.ones(out, np.float32), "one"),
    ]
    return builder.custom("Pointwise", [*inputs, bias], [((*x.shape[:-1], out), TensorProto.FLOAT)], hint)[0]


def _upsample(builder: GraphBuilder, x: Tensor, factor: int) -> Tensor:
    """Bilinear upsampling with half-pixel centres (PyTorch's align_corners=False)."""
    batch, channels, height, width = x.shape
    assert isinstance(height, int) and isinstance(width, int)
    scales = builder.constant(np.array([1, 1, factor, factor], np.float32), "scales")
    return builder.op(
        "Resize",
        [x.name, "", scales],
        (batch, channels, height * factor, width * factor),
        "up",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
