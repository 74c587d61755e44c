"""Live against torch: concrete dropout and its regularizer, outputs and gradients."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, RelaxedBernoulli

from chandrop.functional import concrete_dropout_channels, concrete_regularizer

RATES = [0.02, 0.3, 0.8]
# The shape of an input, its spatial axes, and the shape of a rate for each channel.
LAYOUTS = [
    ((7, 5), (), (5,)),
    ((4, 6, 5), (1,), (5,)),
    ((4, 2, 3, 5), (1, 2), (5,)),
    ((4, 5, 2, 3), (2, 3), (5, 1, 1)),
]


def logits_of(p, shape):
    """One rate, or several around it."""
    spread = np.linspace(-0.5, 0.5, 5).reshape(shape) if shape else 0.0
    return np.array(np.log(p / (1 - p)) + spread, np.float32)


def leaf(array):
    return torch.tensor(np.array(array), dtype=torch.float64, requires_grad=True)


def check(ours, theirs):
    assert ours.shape == tuple(theirs.shape)
    theirs = theirs.detach().numpy()
    largest = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6 * largest)


def torch_relaxed(x, logit, uniforms, temperature, monkeypatch):
    """Torch's relaxed draws; what its ``torch.rand`` gives are our uniforms."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda *_, **__: uniforms)
        relaxed = RelaxedBernoulli(torch.tensor(temperature).double(), logits=logit)
        dropped = relaxed.expand(uniforms.shape).rsample()
    return x * (1 - dropped) / (1 - torch.sigmoid(logit))


def paper(x, logit, uniforms, temperature, monkeypatch):
    """Gal, Hron and Kendall, equation 5, in their own terms."""
    p, u = torch.sigmoid(logit), uniforms
    terms = p.log() - (1 - p).log() + u.log() - (1 - u).log()
    return x * (1 - torch.sigmoid(terms / temperature)) / (1 - p)


@pytest.mark.parametrize("theirs", [torch_relaxed, paper])
@pytest.mark.parametrize("temperature", [0.1, 2 / 3])
@pytest.mark.parametrize("each", [False, True], ids=["one-rate", "rate-per-channel"])
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize(("shape", "axes", "channels"), LAYOUTS)
def test_concrete_dropout(shape, axes, channels, p, each, temperature, theirs, monkeypatch):
    """Output, and the gradients of a weighted sum with respect to x and the logit."""
    rng, key = np.random.default_rng(0), mx.random.key(0)
    x, weights = rng.normal(size=(2, *shape)).astype(np.float32)
    logit = logits_of(p, channels if each else ())
    mask_shape = [1 if axis in axes else n for axis, n in enumerate(shape)]
    uniforms = mx.random.uniform(shape=(1, *mask_shape), key=key)[0]

    def loss(x, logit):
        y = concrete_dropout_channels(x, logit, key, axes, temperature=temperature)
        return (y * mx.array(weights)).sum(), y

    arguments = mx.array(x), mx.array(logit)
    (_, y), gradients = mx.value_and_grad(loss, (0, 1))(*arguments)

    their_x, their_logit = leaf(x), leaf(logit)
    uniforms = torch.tensor(np.array(uniforms)).double()
    their_y = theirs(their_x, their_logit, uniforms, temperature, monkeypatch)
    (their_y * torch.tensor(weights)).sum().backward()

    check(y, their_y)
    check(gradients[0], their_x.grad)
    check(gradients[1], their_logit.grad)


@pytest.mark.parametrize("each", [False, True], ids=["one-rate", "rate-per-channel"])
@pytest.mark.parametrize("shape", [(10, 5), (10, 3, 3, 5)])
@pytest.mark.parametrize("length_scale", [1e-6, 0.1, 3.0])
@pytest.mark.parametrize("p", RATES)
def test_concrete_regularizer(p, length_scale, shape, each):
    """Equations 3 and 4, for the paper's weights of dropout that does not rescale."""
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    logit = logits_of(p, (5,) if each else ())

    value, gradients = mx.value_and_grad(concrete_regularizer, (0, 1))(
        mx.array(logit), mx.array(weight), length_scale
    )

    their_logit, their_weight = leaf(logit), leaf(weight)
    rate = torch.sigmoid(their_logit).expand(shape[-1])
    unscaled = their_weight / (1 - rate)
    squares = (unscaled**2).flatten(0, -2).sum(0)
    by_channel = length_scale**2 * (1 - rate) / 2 * squares - Bernoulli(rate).entropy()
    by_channel.sum().backward()

    check(value, by_channel.sum())
    check(gradients[0], their_logit.grad)
    check(gradients[1], their_weight.grad)
