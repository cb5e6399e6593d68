"""Binarisation against the paper's equations."""

import pytest
import torch

from models.binarize import get_method
from models.binarize.base import Phase, set_phase
from models.binarize.bireal import ApproxSign, BiReal, MagnitudeAwareConv2d, OriginalConv2d
from models.binarize.functional import leaky_clip, sign
from models.binarize.layer import SignConvBn


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


def trained_layer(channels: int, out: int) -> tuple[SignConvBn, torch.Tensor]:
    """A layer in float64 whose BatchNorm has the statistics of the input beside it, [4,channels,6,6]."""
    torch.manual_seed(3)
    layer = SignConvBn(ApproxSign(), MagnitudeAwareConv2d(channels, out, 3, 1)).double()
    torch.nn.init.uniform_(layer.bn.weight, 0.5, 1.5)
    torch.nn.init.normal_(layer.bn.bias)
    x = torch.randn(4, channels, 6, 6, dtype=torch.float64)
    layer.bn.momentum = None  # the plain mean over batches
    layer.train()(x)
    return layer.eval(), x


def test_equation_20_signs_alone_give_the_same_output_with_rescaled_statistics() -> None:
    """With mu' = mu / |W| and sigma' = sigma / |W| a channel; sigma includes the epsilon that Eq. 20 leaves out."""
    layer, x = trained_layer(16, 8)
    bn, magnitude = layer.bn, layer.conv.magnitude()
    assert bn.running_mean is not None
    assert bn.running_var is not None
    with torch.no_grad():
        sums = torch.nn.functional.conv2d(sign(x), sign(layer.conv.weight), padding=1)
        assert torch.equal(sums, sums.round()), "sums of signs are integers"

        def inference(variance: torch.Tensor) -> torch.Tensor:
            mean, deviation = bn.running_mean / magnitude, variance.sqrt() / magnitude
            z = (sums - mean[:, None, None]) / deviation[:, None, None]
            return z * bn.weight[:, None, None] + bn.bias[:, None, None]

        assert torch.allclose(inference(bn.running_var + bn.eps), layer(x), rtol=1e-10, atol=1e-10)
        # as printed, without epsilon: off by at most eps / (2 sigma^2) of the normalised value
        printed = inference(bn.running_var) - bn.bias[:, None, None]
        exact = layer(x) - bn.bias[:, None, None]
        relative = ((printed - exact) / exact).abs().amax(dim=(0, 2, 3))
        assert (relative > 0).all()
        assert (relative <= 1.001 * bn.eps / (2 * bn.running_var)).all()


def test_equations_18_and_19_gradients_have_the_size_of_the_real_weights() -> None:
    """Through a BatchNorm, the plain sign's gradient is |W| times the magnitude-aware one, channel by channel."""
    torch.manual_seed(5)
    weight = torch.randn(6, 12, 3, 3, dtype=torch.float64) * 0.05
    x, probe = sign(torch.randn(8, 12, 7, 7, dtype=torch.float64)), torch.randn(8, 6, 7, 7, dtype=torch.float64)
    gradients = {}
    for name, conv_type in (("aware", MagnitudeAwareConv2d), ("original", OriginalConv2d), ("real", None)):
        conv = (conv_type or torch.nn.Conv2d)(12, 6, 3, 1).double()
        conv.weight.data.copy_(weight)
        used = conv.binary_weight() if conv_type else conv.weight
        y = torch.nn.functional.conv2d(x, used, padding=1)
        z = torch.nn.functional.batch_norm(y, None, None, training=True, eps=1e-14)
        (z * probe).sum().backward()
        assert conv.weight.grad is not None
        gradients[name] = conv.weight.grad
    magnitude = weight.abs().mean(dim=(1, 2, 3), keepdim=True)
    assert torch.allclose(gradients["original"], magnitude * gradients["aware"], rtol=1e-9, atol=1e-12)
    sizes = {name: gradient.abs().mean().item() for name, gradient in gradients.items()}
    assert 0.5 < sizes["aware"] / sizes["real"] < 2.0, "Eq. 19"
    assert sizes["original"] / sizes["real"] < 0.1, "Eq. 18: the real weights here average 0.04"


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


def test_the_papers_gradient_and_update_are_the_default() -> None:
    """Recipes and cards do not name them."""
    assert get_method("bireal") == BiReal(gradient="approxsign", update="magnitude")
    assert ApproxSign().gradient == "approxsign"


def test_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="use one of abcnet, binarynet, bireal, xnornet"):
        get_method("ternary")
