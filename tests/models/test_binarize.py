"""Binarisation against the paper's equations."""

import numpy as np
import pytest
import torch

from models.binarize import get_method
from models.binarize.base import Phase, set_phase
from models.binarize.bireal import ApproxSign, MagnitudeAwareConv2d
from models.binarize.functional import leaky_clip, sign


def test_sign_of_zero_is_plus_one() -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-30, 3.0, float("nan")])
    assert sign(x).tolist() == [-1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_gradient_of_activations_is_equation_5() -> None:
    x = torch.tensor([-1.5, -1.0, -0.75, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0], requires_grad=True)
    ApproxSign()(x).sum().backward()
    expected = [0.0, 0.0, 0.5, 1.5, 2.0, 1.5, 1.0, 0.0, 0.0]
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx(expected)


def test_equation_5_is_the_derivative_of_equation_4() -> None:
    def approximation(a: torch.Tensor) -> torch.Tensor:
        inner = torch.where(a < 0, 2 * a + a * a, 2 * a - a * a)
        return torch.where(a < -1, -torch.ones_like(a), torch.where(a < 1, inner, torch.ones_like(a)))

    a = torch.linspace(-1.6, 1.6, 65, dtype=torch.float64)
    finite = (approximation(a + 1e-6) - approximation(a - 1e-6)) / 2e-6
    x = a.clone().requires_grad_()
    ApproxSign()(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, finite, atol=1e-5)


def test_binary_weight_has_the_magnitude_of_the_real_one() -> None:
    conv = MagnitudeAwareConv2d(5, 7, 3, 1)
    binary = conv.binary_weight()
    for out in range(7):
        magnitude = conv.weight[out].abs().mean()
        assert torch.allclose(binary[out].abs(), magnitude.expand_as(binary[out]))
        assert torch.equal(sign(binary[out]), sign(conv.weight[out]))


def test_weight_gradient_passes_inside_one_only() -> None:
    conv = MagnitudeAwareConv2d(1, 1, 1, 1)
    for value, passed in ((0.3, 1.0), (-0.9, 1.0), (1.7, 0.0), (-1.7, 0.0)):
        conv.weight.data.fill_(value)
        conv.weight.grad = None
        conv.binary_weight().sum().backward()
        assert conv.weight.grad is not None
        assert conv.weight.grad.item() == passed, value


def test_scale_is_absorbed_by_batchnorm() -> None:
    """Eq. 20 holds up to BatchNorm's epsilon, which the paper neglects."""
    torch.manual_seed(3)
    x = sign(torch.randn(4, 16, 6, 6))
    conv = MagnitudeAwareConv2d(16, 8, 3, 1)
    scale = conv.weight.detach().abs().mean(dim=(1, 2, 3))
    with torch.no_grad():
        scaled = conv(x)
        plain = scaled / scale[None, :, None, None]

    def normalised(y: torch.Tensor) -> torch.Tensor:
        mean, variance = y.mean(dim=(0, 2, 3), keepdim=True), y.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        return (y - mean) / variance.sqrt()

    assert torch.allclose(normalised(scaled), normalised(plain), atol=1e-4)
    assert torch.equal(plain.round(), plain.round() * 1.0)
    assert np.abs((plain - plain.round()).numpy()).max() < 1e-3, "sums of signs are integers"


def test_lemma_1_gradient_shrinks_as_weights_grow() -> None:
    torch.manual_seed(4)
    x = torch.randn(8, 3, 5, 5, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    probe = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    gradients = []
    for alpha in (1.0, 10.0):
        w = (alpha * weight).requires_grad_()
        y = torch.nn.functional.conv2d(x, w)
        z = torch.nn.functional.batch_norm(y, None, None, training=True, eps=1e-14)
        (z * probe).sum().backward()
        assert w.grad is not None
        gradients.append(w.grad)
    assert torch.allclose(gradients[1], gradients[0] / 10.0, rtol=1e-9, atol=1e-12)


def test_phases() -> None:
    conv = MagnitudeAwareConv2d(2, 2, 3, 1)
    pointwise = MagnitudeAwareConv2d(2, 2, 1, 1)
    network = torch.nn.Sequential(conv, pointwise, ApproxSign())
    set_phase(network, Phase.BINARY_1X1)
    assert not conv.weights_are_binary
    assert pointwise.weights_are_binary
    set_phase(network, Phase.CLIP)
    assert not pointwise.weights_are_binary
    x = torch.tensor([-3.0, 0.5, 2.0])
    assert network[2](x).tolist() == [-1.0, 0.5, 1.0]
    assert leaky_clip(x).tolist() == pytest.approx([-1.2, 0.5, 1.1])


def test_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="use one of abcnet, binarynet, bireal, xnornet"):
        get_method("ternary")
