"""All laws again, over whole models called by ``functional_call``.

What MLX cannot do with some of them is in ``tests/test_limits.py``.
"""

from itertools import combinations
from zlib import crc32

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from binomial import Binomial
from mlx.utils import tree_map
from models import MODELS, recorded, replayed
from subjects import assert_same, assert_trees_close

from chandrop.functional import dropout_channels
from chandrop.nn import checkpoint, functional_call, stack_parameters
from chandrop.random import example_keys, fold_in

each = pytest.mark.parametrize("subject", MODELS, ids=lambda s: s.name)
each_plain = pytest.mark.parametrize(
    "subject", [s for s in MODELS if s.plain], ids=lambda s: s.name
)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def make(subject):
    """A model in eval mode, since the statistics of BatchNorm depend on the batch."""
    return subject.make().eval()


def masks_of(model, x, key):
    with recorded() as draws:
        functional_call(model, {}, x, key=key, dropout=True)
    return [draw.both for draw in draws]


def loss_of(model, x):
    def loss(parameters, key):
        y = functional_call(model, parameters, x, key=key, dropout=True)
        return (y * mx.cos(mx.arange(y.size).reshape(y.shape))).sum()

    return loss


@each
def test_01_purity(subject, get_key):
    model, x, key = make(subject), subject.x(), get_key()
    y = functional_call(model, {}, x, key=key, dropout=True)
    other = functional_call(model, {}, x, key=get_key(), dropout=True)
    mx.random.uniform()
    assert_same(functional_call(model, {}, x, key=key, dropout=True), y)
    assert not mx.array_equal(other, y)
    assert_same(functional_call(make(subject), {}, x, key=key, dropout=True), y)


@each_plain
def test_02_channel(subject, key):
    model, x = make(subject), subject.x()
    with recorded() as draws:
        functional_call(model, {}, x, key=key, dropout=True)
    assert len(draws) == subject.calls
    for draw in draws:
        scale = mx.array(1 / (1 - draw.layer.p))
        per_channel = draw.mask.max(draw.spatial_axes, keepdims=True)
        assert_same(mx.broadcast_to(per_channel, draw.mask.shape), draw.mask)
        assert mx.all((per_channel == 0) | (per_channel == scale))


def kept_by_layer(subject, key, draws):
    """What each call of a layer keeps, by the rate: at least `draws` bools for each."""
    model, x = make(subject), subject.x(128)
    kept, rates = [[] for _ in range(subject.calls)], [None] * subject.calls
    step = 0
    while not step or min(sum(map(len, streams)) for streams in kept) < draws:
        with recorded() as drawn:
            functional_call(model, {}, x, key=fold_in(key, step), dropout=True)
        for number, draw in enumerate(drawn):
            # The last six channels: as many for every layer, so that streams line up.
            mask = draw.mask.reshape(len(x), -1, draw.mask.shape[-1])[:, 0, -6:]
            kept[number].append(np.array(mask).ravel() > 0)
            rates[number] = draw.layer.p
        step += 1
    return {
        number: (rates[number], np.concatenate(kept[number])) for number in range(len(kept))
    }


@pytest.mark.statistical(false_alarms=1e-8)
@each_plain
def test_03_mean(subject, get_key, false_alarms):
    """A dropped share of a layer that is off by 5 % of p is found."""
    tests = {
        p: Binomial(p, false_alarms / subject.calls, deviation=0.05)
        for p in (0.2, 0.25, 0.3, 0.4, 0.5)
    }
    kept = kept_by_layer(subject, get_key(), tests[0.2].draws)
    for p, stream in kept.values():
        tests[p].check((~stream).sum(), stream.size)


@pytest.mark.statistical(false_alarms=1e-8)
@pytest.mark.parametrize(
    "subject", [s for s in MODELS if s.calls > 1 and s.plain], ids=lambda s: s.name
)
def test_04_independence(subject, get_key, false_alarms):
    """Any two draws of a model agree as often as independent ones; 5 % off is found."""
    kept = kept_by_layer(subject, get_key(), 40_000)
    for (p, one), (q, other) in combinations(kept.values(), 2):
        agreement = p * q + (1 - p) * (1 - q)
        test = Binomial(agreement, false_alarms / 6, deviation=0.05)
        test.check((one == other).sum(), one.size)


@each
def test_05_vmap(subject, key):
    """Masks are bit for bit those of the loop; outputs differ by rounding at most."""
    model, x = make(subject), subject.x()
    keys = mx.random.split(key, 6)

    def call(key):
        return functional_call(model, {}, x, key=key, dropout=True)

    def masks(key):
        return masks_of(model, x, key)

    one_by_one = mx.stack([call(key) for key in keys])
    np.testing.assert_allclose(mx.vmap(call)(keys), one_by_one, **TOLERANCE)
    nested = mx.vmap(mx.vmap(call))(keys.reshape(2, 3, 2)).flatten(0, 1)
    np.testing.assert_allclose(nested, one_by_one, **TOLERANCE)
    stacked = mx.vmap(masks)(keys)
    for i, key in enumerate(keys):
        for mask, member in zip(stacked, masks(key), strict=True):
            assert_same(mask[i], member)


@pytest.mark.parametrize(
    "subject", [s for s in MODELS if s.name != "Conv3dNetwork"], ids=lambda s: s.name
)
def test_05_vmap_over_parameters_and_keys(subject, key):
    model, x = make(subject), subject.x()
    members = [subject.build() for _ in range(3)]
    keys = mx.random.split(key, 3)

    def call(parameters, key):
        return functional_call(model, parameters, x, key=key, dropout=True)

    one_by_one = [
        call(member.parameters(), key) for member, key in zip(members, keys, strict=True)
    ]
    stacked = mx.vmap(call)(stack_parameters(members), keys)
    np.testing.assert_allclose(stacked, mx.stack(one_by_one), **TOLERANCE)
    shared = mx.vmap(call, in_axes=(0, None))(stack_parameters(members), keys[0])
    np.testing.assert_allclose(shared[0], one_by_one[0], **TOLERANCE)


@each
def test_06_grad(subject, key):
    """The gradient is that of a network whose masks are constants."""
    model, x = make(subject), subject.x()
    parameters, masks = model.trainable_parameters(), masks_of(model, x, key)
    with replayed(masks):
        expected = mx.grad(loss_of(model, x))(parameters, key)
    assert_trees_close(mx.grad(loss_of(model, x))(parameters, key), expected)
    over_key = mx.grad(lambda key: loss_of(model, x)(parameters, key))(key)
    assert_same(over_key, mx.zeros_like(key))


@each
def test_06_second_order(subject, key):
    model, x = make(subject), subject.x()
    masks = masks_of(model, x, key)

    def squared_gradient(x):
        gradient = mx.grad(
            lambda x: functional_call(model, {}, x, key=key, dropout=True).sum()
        )
        return (gradient(x) ** 2).sum()

    second = mx.grad(squared_gradient)(x)
    with replayed(masks * 2):
        expected = mx.grad(squared_gradient)(x)
    np.testing.assert_allclose(second, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "subject", [s for s in MODELS if not s.convolutions], ids=lambda s: s.name
)
def test_06_jvp(subject, key):
    model, x = make(subject), subject.x()
    tangent = mx.ones_like(x)

    def call(x):
        return functional_call(model, {}, x, key=key, dropout=True)

    y, forward = mx.jvp(call, [x], [tangent])
    _, backward = mx.vjp(call, [x], [mx.ones_like(y[0])])
    np.testing.assert_allclose(forward[0].sum(), backward[0].sum(), rtol=1e-3, atol=1e-4)


# Each of the other members is compiled alone, in test_07_compile.py.
@each_plain
def test_07_compile(subject, get_key, compiles):
    model, x = make(subject), subject.x()
    function, traces = mx.value_and_grad(loss_of(model, x)), []
    # Where LayerNorm and softmax are fused, gradients of about 1 differ by ten roundings.
    atol = 1e-5 if subject.name == "Transformer" else 1e-6

    @mx.compile
    def step(parameters, key):
        traces.append(key)
        return function(parameters, key), masks_of(model, x, key)

    # The first call in a process may be traced once more than those that follow.
    for _ in range(2):
        step(model.trainable_parameters(), get_key())
    traces.clear()
    for _ in range(3):
        key = get_key()
        result, masks = step(model.trainable_parameters(), key)
        expected = function(model.trainable_parameters(), key)
        assert_trees_close(result, expected, atol=atol)
        for mask, eager in zip(masks, masks_of(model, x, key), strict=True):
            assert_same(mask, eager)
    assert not traces


@each
def test_08_checkpoint(subject, key):
    model, x = make(subject), subject.x()
    plain = mx.value_and_grad(loss_of(model, x))(model.parameters(), key)
    again = mx.value_and_grad(mx.checkpoint(loss_of(model, x)))(model.parameters(), key)
    assert_trees_close(again, plain)

    class Around(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.model, self.wrap = model, wrap

        def __call__(self, x):
            return self.wrap(self.model)(x)

    # The paths, and so the keys, are the same in both.
    results = []
    for wrap in (lambda model: model, checkpoint):
        wrapper = Around(wrap).eval()
        loss = mx.value_and_grad(loss_of(wrapper, x))
        results.append(loss(wrapper.parameters(), key))
    assert_trees_close(*results)


@pytest.mark.parametrize("subject", [s for s in MODELS if s.cut], ids=lambda s: s.name)
def test_09_cut(subject, key):
    """The whole batch, micro-batches and ranks: the same masks, outputs, gradients."""
    model, x = make(subject), subject.x(6)
    parameters = model.trainable_parameters()

    def call(parameters, x, offset):
        keys = example_keys(key, len(x), offset)
        return functional_call(model, parameters, x, key=keys, dropout=True)

    def loss(parameters, x, offset):
        return (call(parameters, x, offset) ** 2).sum()

    cuts = [(0, 1), (1, 4), (4, 6)]
    whole = call(parameters, x, 0)
    parts = [call(parameters, x[a:b], a) for a, b in cuts]
    np.testing.assert_allclose(mx.concatenate(parts), whole, **TOLERANCE)
    gradients = [mx.grad(loss)(parameters, x[a:b], a) for a, b in cuts]
    summed = tree_map(lambda *parts: sum(parts), *gradients)
    assert_trees_close(summed, mx.grad(loss)(parameters, x, 0), rtol=1e-4, atol=1e-5)
    masks = masks_of(model, x, example_keys(key, 6))
    for a, b in cuts:
        part = masks_of(model, x[a:b], example_keys(key, b - a, a))
        for mask, whole in zip(part, masks, strict=True):
            assert_same(mask, whole[:, a:b])


@each
def test_10_oracle(subject, key):
    """A layer draws with the successive splits of ``fold_in(key, crc32(path))``."""
    model, x = make(subject), subject.x()
    with recorded() as draws:
        functional_call(model, {}, x, key=key, dropout=True)
    keys = {}
    for draw in draws:
        smallest = min(path for path, m in model.named_modules() if m is draw.layer)
        assert draw.path == smallest
        layer_key = keys.get(draw.path, fold_in(key, crc32(smallest.encode())))
        keys[draw.path], sub = mx.random.split(layer_key)
        x = mx.ones(draw.mask.shape)
        if subject.plain:
            expected = dropout_channels(x, draw.layer.p, sub, draw.spatial_axes)
        else:
            expected = draw.layer.draw(x, sub) - draw.layer.draw(x * 0, sub)
        assert_same(draw.mask, expected)


@each
def test_11_export(subject, get_key, tmp_path):
    model, x = make(subject), subject.x()

    def call(x, key):
        return functional_call(model, {}, x, key=key, dropout=True)

    mx.export_function(str(tmp_path / "f.mlxfn"), call, x, get_key())
    imported = mx.import_function(str(tmp_path / "f.mlxfn"))
    for _ in range(2):
        key = get_key()
        np.testing.assert_allclose(imported(x, key)[0], call(x, key), **TOLERANCE)


@each
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_12_dtype(subject, dtype, key):
    model, x = make(subject), subject.x()
    wide = masks_of(model, x, key)
    model.set_dtype(dtype)
    y = functional_call(model, {}, x.astype(dtype), key=key, dropout=True)
    assert y.dtype == dtype
    assert not mx.isnan(y).any()
    for mask, other in zip(masks_of(model, x.astype(dtype), key), wide, strict=True):
        assert mask.dtype == dtype
        assert mx.array_equal(mask > 0, other > 0)
