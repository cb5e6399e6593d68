"""ABC-Net (Lin et al. 2017, the paper's [24]): several binary bases for weights and for activations.

    W ~ sum_i alpha_i B_i,  B_i = sign(W - mean(W) + u_i std(W)),  u_i spread over [-1, 1], alpha by least squares
    x ~ sum_j beta_j A_j,   A_j = sign(clip(x + v_j, 0, 1) - 1/2),  shifts v_j and scales beta_j are trained
    y = sum_ij alpha_i beta_j (B_i * A_j)

Mean, deviation and alpha are taken per output channel (the original also allows per layer), because a BConv has a scale
per channel anyway. Training convolves the two sums once, which is equal by linearity; inference runs M x N BConvs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from models.binarize.base import BinaryActivation, BinaryConv2d, BinaryLayer, Method
from models.binarize.functional import nonlinearity, sign, trainable_sign
from models.export.fold import batchnorm_affine

if TYPE_CHECKING:
    from models.export.graph import After, Stream
    from models.export.packed_ops import PackedOps

_RIDGE = 1e-6  # on the Gram matrix: two bases of a channel may be equal, and then any split of their scale is right


class _ShiftedSign(torch.autograd.Function):
    """Forward sign(h - 1/2) of h = x + v; backward 1 where 0 <= h <= 1, else 0."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        ctx.save_for_backward(h)
        return sign(h - 0.5)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        h: Tensor
        (h,) = ctx.saved_tensors
        inside: Tensor = ((h >= 0) & (h <= 1)).to(h.dtype)
        return grad * inside


class BasesActivation(BinaryActivation):
    """[N,C,H,W] -> sum_j beta_j A_j, same shape; the gradient of A_j passes where 0 <= x + v_j <= 1, to x and v_j.

    Args:
        bases: N. The initial thresholds are evenly spaced in (-1, 1), and the initial scales sum to 1.
    """

    def __init__(self, bases: int) -> None:
        super().__init__()
        self.bases = bases
        steps = (torch.arange(bases) + 0.5) * (2.0 / bases) - 1.0  # initial thresholds
        self.shift = nn.Parameter(0.5 - steps)
        self.scale = nn.Parameter(torch.full((bases,), 1.0 / bases))

    def forward(self, x: Tensor) -> Tensor:
        if self.phase.real_valued:
            return nonlinearity(x, self.phase)
        total: Tensor | None = None
        for j in range(self.bases):
            signs: Tensor = _ShiftedSign.apply(x + self.shift[j])  # type: ignore[no-untyped-call]  # torch does not annotate it
            total = self.scale[j] * signs if total is None else total + self.scale[j] * signs
        assert total is not None
        return total


class BasesConv2d(BinaryConv2d):
    """Convolution with weights sum_i alpha_i B_i.

    With g the gradient of these weights, that of W is sum_i alpha_i g [|W - mean + u_i std| <= 1]: mean, deviation and
    alpha are constants in the backward pass. The mask is that of our other methods, and idle while weights stay well
    inside [-1, 1].

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: K.
        stride: 1 or 2.
        bases: M.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, bases: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.bases = bases
        self.scales = bases

    def shifted(self) -> Tensor:
        """W - mean + u_i std per output channel, whose signs are the bases: [M,O,C,K,K]."""
        flat = self.weight.detach().flatten(1)
        mean = flat.mean(dim=1)[:, None, None, None]
        deviation = flat.std(dim=1, correction=0)[:, None, None, None]
        u = torch.linspace(-1.0, 1.0, self.bases) if self.bases > 1 else torch.zeros(1)
        shifts = u.to(flat)[:, None, None, None, None] * deviation - mean
        return self.weight + shifts

    def coefficients(self, bases: Tensor) -> Tensor:
        """Coefficients alpha [O,M] minimising |W - sum_i alpha_i B_i|^2 per channel, from bases [M,O,C,K,K]."""
        b = bases.detach().flatten(2).permute(1, 0, 2).double()  # [O,M,n]
        target = self.weight.detach().flatten(1)[..., None].double()  # [O,n,1]
        gram = b @ b.transpose(1, 2)
        gram = gram + _RIDGE * b.shape[2] * torch.eye(self.bases, dtype=gram.dtype, device=gram.device)
        alpha: Tensor = torch.linalg.solve(gram, b @ target)[..., 0]
        return alpha.to(self.weight.dtype)

    def binary_weight(self) -> Tensor:
        bases = trainable_sign(self.shifted(), "clip")
        alpha = self.coefficients(bases).T[..., None, None, None]  # [M,O,1,1,1]
        return (alpha * bases).sum(dim=0)


class BasesLayer(BinaryLayer):
    """Activation bases -> convolution with weight bases -> BatchNorm.

    Args:
        in_channels: C.
        out_channels: O.
        kernel: kernel size of the convolution.
        stride: stride of the convolution.
        weight_bases: M.
        activation_bases: N.
    """

    reads_plain_signs: ClassVar[bool] = False
    sign: BasesActivation
    conv: BasesConv2d

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, weight_bases: int, activation_bases: int
    ) -> None:
        super().__init__()
        self.sign = BasesActivation(activation_bases)
        self.conv = BasesConv2d(in_channels, out_channels, kernel, stride, weight_bases)
        self.conv.real_multiplies = weight_bases * activation_bases
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(self.sign(x)))
        return y

    def export(self, ops: PackedOps, x: Stream, after: After, hint: str) -> Stream:
        """N Packs and M x N BConvs, each adding to the sum of those before it; M kernels are stored."""
        with torch.no_grad():
            bases = sign(self.conv.shifted())
            alpha = self.conv.coefficients(bases).double().numpy()  # [O,M]
        scale, bias = batchnorm_affine(self.bn)
        beta = self.sign.scale.detach().double().tolist()
        weights = [basis.double().numpy() for basis in bases]
        stored = [ops.stored(weight, f"{hint}_b{i}") for i, weight in enumerate(weights)]
        y: Stream | None = None
        for j, shift in enumerate(self.sign.shift.detach().double().tolist()):
            bits = ops.pack(x.values, f"{hint}_pack{j}", threshold=0.5 - shift)
            for i in range(self.conv.bases):
                # The first BConv adds BatchNorm's bias and the caller's ``after``; the others add the sum so far.
                following = after if y is None else ops.residual(y.values)
                factor = scale * alpha[:, i] * beta[j]
                name = f"{hint}_b{i}a{j}"
                stride = self.conv.stride[0]
                y = ops.bconv(bits, weights[i], factor, bias, stride, following, name, stored=stored[i])
                bias = bias * 0.0
        assert y is not None
        return y


@dataclass(frozen=True)
class AbcNet(Method):
    """ABC-Net.

    Attributes:
        weight_bases: M, at least 1.
        activation_bases: N, at least 1.
    """

    name: ClassVar[str] = "abcnet"
    weight_bases: int = 3
    activation_bases: int = 3

    def __post_init__(self) -> None:
        for field in ("weight_bases", "activation_bases"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")

    def layer(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> BinaryLayer:
        """See `Method.layer`."""
        return BasesLayer(in_channels, out_channels, kernel, stride, self.weight_bases, self.activation_bases)


METHOD = AbcNet
