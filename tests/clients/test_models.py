"""Models that others wrote, converted: they are what they were, with keys."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from clients.models import CLIENTS
from mlx.utils import tree_flatten
from subjects import assert_same

import chandrop
from chandrop.nn import (
    check_step,
    convert,
    functional_call,
    get_keys,
    rekey,
    revert,
)
from chandrop.random import example_keys
from chandrop.uncertainty import predict, sample

STEPS = 4


@pytest.fixture(params=CLIENTS, ids=lambda client: client.name)
def client(request):
    return request.param


@pytest.fixture
def model(client):
    mx.random.seed(0)
    return client.build()


def described(model):
    return {path: (id(m), m.training) for path, m in model.named_modules()}


def test_convert_and_revert(client, model, tmp_path):
    path = str(tmp_path / "weights.safetensors")
    model.eval().save_weights(path)
    expected, before = client(model), described(model)
    theirs = [p for p, m in model.named_modules() if isinstance(m, nn.Dropout)]
    assert len(theirs) == client.dropouts
    assert convert(model) is model
    assert sorted(get_keys(model)) == sorted(theirs)
    assert described(model) == before
    model.load_weights(path, strict=True)
    assert_same(client(model), expected)
    layers = dict(model.named_modules())
    assert {type(layers[path]) for path in theirs} == {chandrop.nn.Dropout}
    revert(model)
    assert {type(layers[path]) for path in theirs} == {nn.Dropout}
    assert_same(client(model), expected)
    assert described(model) == before


def step_of(client, model, optimizer):
    def step():
        value, gradients = nn.value_and_grad(model, loss)(model)
        optimizer.update(model, gradients)
        return value

    def loss(model):
        y = client(model)
        return (y - mx.random.normal(y.shape, key=mx.random.key(6))).square().mean()

    return step


def trained(client, compiled):
    """The losses and the weights of a few steps, each from the same keys."""
    mx.random.seed(0)
    model = convert(client.build())
    rekey(model, mx.random.key(1))
    mx.random.seed(1)
    optimizer = optim.SGD(1e-3, momentum=0.9)
    optimizer.init(model.trainable_parameters())
    step = step_of(client, model, optimizer)
    if compiled:
        state = [model.state, optimizer.state, *[mx.random.state] * client.draws_by_hand]
        step = mx.compile(step, inputs=state, outputs=state)
    losses = [step().item() for _ in range(STEPS)]
    return losses, dict(tree_flatten(model.trainable_parameters()))


def test_compiled_steps_are_the_eager_ones(client, compiles):
    (losses, weights), (compiled_losses, compiled) = (trained(client, c) for c in (0, 1))
    np.testing.assert_allclose(compiled_losses, losses, rtol=1e-3)
    for name, weight in weights.items():
        np.testing.assert_allclose(compiled[name], weight, rtol=1e-3, atol=1e-5)


def test_a_compiled_step_draws_new_masks(client, model, compiles):
    convert(model)
    optimizer = optim.SGD(0.0)
    optimizer.init(model.trainable_parameters())
    step = step_of(client, model, optimizer)
    state = [model.state, optimizer.state]
    if client.draws_by_hand:
        forgetful = mx.compile(step, inputs=state, outputs=state)
        with pytest.raises(ValueError, match="global stream"):
            check_step(model, forgetful, optimizer=optimizer)
        state.append(mx.random.state)
    step = mx.compile(step, inputs=state, outputs=state)
    before = get_keys(model)
    check_step(model, step, optimizer=optimizer)
    for path, key in get_keys(model).items():
        assert_same(key, before[path])
    assert len({step().item() for _ in range(STEPS)}) == STEPS


def test_pure_in_the_key(client, model, key):
    convert(model).eval()
    plain = client(model)

    def call(key):
        key = key if client.is_graph else key[None]
        call = partial(functional_call, model, {}, key=key, dropout=True)
        return client.output(call(*client.inputs))

    keys = mx.random.split(key, 2)
    one, other = call(keys[0]), call(keys[1])
    assert_same(call(keys[0]), one)
    assert not mx.allclose(one, other)
    samples = sample(call, keys, chunk=None if client.maps else 1)
    np.testing.assert_allclose(samples, mx.stack([one, other]), rtol=1e-3, atol=1e-4)
    assert_same(client(model), plain)


def test_predict(client, model, key):
    """Without ``convert``, which a prediction does not need."""
    before = described(model)
    keys = mx.random.split(key, 4)
    network = client.network(model)
    if client.is_graph:
        # Its masks are of edges: one key draws each by itself.
        edges, nodes = client.inputs

        def network(key, nodes):
            return functional_call(model, {}, edges, nodes, key=key[0], dropout=True)

        convert(model).eval()
        before = described(model)
        summary = predict(network, keys, nodes)
    else:
        chunk = None if client.maps else 1
        summary = predict(network, keys, client.inputs, chunk=chunk)
    assert summary.mutual_information.shape == summary.probabilities.shape[:-1]
    assert summary.mutual_information.max() > 0
    assert described(model) == before


def test_a_batch_is_cut_anywhere(client, model, key):
    if client.is_graph:
        pytest.skip("a graph is one example")
    convert(model).eval()

    def loss(parameters, start, stop):
        keys = example_keys(key, stop - start, offset=start)
        inputs = [x[start:stop] for x in client.inputs]
        call = partial(functional_call, model, parameters, key=keys, dropout=True)
        return client.output(call(*inputs)).square().sum()

    def gradients(*part):
        return dict(tree_flatten(mx.grad(loss)(model.trainable_parameters(), *part)))

    if client.flattens:
        with pytest.raises(ValueError, match=client.flattens):
            gradients(0, 2)
        return
    whole, first, second = gradients(0, 2), gradients(0, 1), gradients(1, 2)
    for name, gradient in whole.items():
        np.testing.assert_allclose(
            first[name] + second[name],
            gradient,
            rtol=1e-3,
            atol=1e-4 * max(1.0, mx.abs(gradient).max().item()),
            err_msg=name,
        )
