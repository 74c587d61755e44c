"""Each row of docs/names.md, live: chandrop's line does what the other library's name does.

The shift and the multiplier of a layer are measured from its outputs for one seed: the
shift is the output for zeros, and the multiplier is the output for ones minus the shift.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import re
from functools import cache, partial
from pathlib import Path

import equinox
import flax.linen
import flax.nnx
import haiku
import jax
import jax.numpy as jnp
import keras
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from binomial import Binomial
from numpy.lib.stride_tricks import sliding_window_view
from peers import streams, weights
from peers.without_init import exports_of, load_without_init
from scipy.stats import chi2, norm
from torch.nn import functional

import chandrop.functional
import chandrop.nn
import chandrop.random
import chandrop.thin
from chandrop.functional._drop_block import _any_in_block

no_log = {"utils": {"_log_api_usage_once": lambda *_: None}}
tv_block = load_without_init("torchvision", "ops.drop_block", **no_log)
tv_depth = load_without_init("torchvision", "ops.stochastic_depth", **no_log)
timm = load_without_init("timm", "layers.drop")
timm_patches = load_without_init("timm", "layers.patch_dropout")

PAGE = Path(__file__).parents[2] / "docs" / "names.md"
P, BLOCK_SIZE = 0.3, 3
NC, NLC, NHWC, NDHWC = (9, 8), (6, 5, 8), (6, 4, 5, 8), (6, 2, 4, 5, 8)
LC, HWC, DHWC = NLC[1:], NHWC[1:], NDHWC[1:]


def table():
    """Returns the rows: (library, theirs) and our line."""
    lines = PAGE.read_text().split("| library |")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert all(re.fullmatch("`[^`]+`", line) for _, _, line in rows)
    return {(lib, name.replace("`", "")): line.strip("`") for lib, name, line in rows}


NAMES = {
    name: getattr(module, name)
    for module in (chandrop.functional, chandrop.nn, chandrop.random, chandrop.thin)
    for name in module.__all__
}
NAMES |= {"mx": mx, "nn": nn, "p": P, "block_size": BLOCK_SIZE}


def our_line(line, **variables):
    """Evaluates our cell."""
    return eval(line, NAMES | variables)


def ours(line, x, seed, dtype=mx.float32):
    """Evaluates our cell for an input; the seed also determines a layer's own key."""
    mx.random.seed(seed)
    y = our_line(line, x=mx.array(x), key=mx.random.key(seed))
    assert y.dtype == dtype
    return np.array(y)


# Theirs, as functions of a channels-last input and a seed.


def with_torch(call, spatial_ndim=None):
    """Moves the channels first, as torch has them."""

    def theirs(x, seed):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 3 ms
        batched = spatial_ndim is None or x.ndim == spatial_ndim + 2
        with torch.no_grad():
            y = call(torch.tensor(np.moveaxis(x, -1, int(batched))))
        return np.moveaxis(y.numpy(), int(batched), -1)

    return theirs


def with_tokens(call, output=None):
    """Wraps a call of torch whose channels are last, and chooses one of its outputs."""

    def theirs(x, seed):
        torch.default_generator.manual_seed(seed)
        y = call(torch.tensor(x))
        return (y if output is None else y[output]).numpy()

    return theirs


def with_key(call):
    """Wraps a call that takes a JAX key."""
    return lambda x, seed: np.array(call(jnp.asarray(x), jax.random.key(seed)))


def with_keras(build):
    """Wraps a Keras layer, which takes a seed."""
    return lambda x, seed: np.array(build(seed=seed)(x, training=True))


def with_mlx(layer):
    def theirs(x, seed):
        mx.random.seed(seed)
        return np.array(layer(mx.array(x)))

    return theirs


def flax_linen(**kwargs):
    layer = flax.linen.Dropout(P, deterministic=False, **kwargs)
    return with_key(lambda x, key: layer.apply({}, x, rngs={"dropout": key}))


def flax_nnx(**kwargs):
    def theirs(x, seed):
        return np.array(flax.nnx.Dropout(P, rngs=flax.nnx.Rngs(seed), **kwargs)(x))

    return theirs


def torch_between_layers(cls):
    """Recovers the dropout between two layers by inverting the second.

    With open gates and no memory, an LSTM returns tanh(tanh(x)) and a GRU tanh(x).
    """
    tanhs, biases = {
        torch.nn.RNN: (0, [0]),
        torch.nn.LSTM: (2, [100, -100, 0, 100]),
        torch.nn.GRU: (1, [0, -100, 0]),
    }[cls]
    own = len(biases) - (2 if cls is torch.nn.LSTM else 1)  # the gate that reads the input
    kwargs = {"nonlinearity": "relu"} if cls is torch.nn.RNN else {}

    def theirs(x, seed):
        n = x.shape[-1]
        network = cls(n, n, num_layers=2, dropout=P, batch_first=True, **kwargs).double()
        x = torch.tensor(x).double() / 10
        for _ in range(tanhs):
            x = x.atanh()
        with torch.no_grad():
            for name, weight in network.named_parameters():
                weight.zero_()
                if name.startswith("weight_ih"):
                    weight[own * n : (own + 1) * n] = torch.eye(n)
                if name.startswith("bias_ih"):
                    weight += torch.tensor(biases).repeat_interleave(n)
            torch.default_generator.manual_seed(seed)
            y, _ = network(x)
        for _ in range(tanhs):
            y = y.atanh()
        return (y * 10).float().numpy()

    return theirs


# For each gate: the biases of all gates that make the new state equal the gate's input, and
# whether the new state is that input times the previous state.
GATES = {
    keras.layers.SimpleRNN: [((0,), False)],
    keras.layers.LSTM: [
        ((0, 0, 1, 1), False),
        ((0, 0, 0, 1), True),
        ((1, 0, 0, 1), False),
        ((1, 0, 1, 0), False),
    ],
    keras.layers.GRU: [((0, 0, 0), True), ((0, 0, 1), False), ((0, 1, 0), False)],
}


def linear_recurrent(cls, gate, features, recurrent, **kwargs):
    """Returns a layer without nonlinearities, whose state shows the input of one gate."""
    biases, _ = GATES[cls][gate]
    if cls is not keras.layers.SimpleRNN:
        kwargs["recurrent_activation"] = "linear"
    kwargs |= {"activation": "linear", "return_sequences": True, "unroll": True}
    layer = cls(features, **kwargs)
    layer.build((None, None, features))
    eye = np.kron(np.arange(len(biases)) == gate, np.eye(features))
    bias = np.repeat(biases, features)
    if cls is keras.layers.GRU:
        bias = np.stack([0 * bias, bias])
    layer.set_weights([eye, recurrent * eye, bias])
    return layer


def keras_input(cls):
    gate = {keras.layers.SimpleRNN: 0, keras.layers.LSTM: 2, keras.layers.GRU: 2}[cls]

    def theirs(x, seed):
        layer = linear_recurrent(cls, gate, x.shape[-1], False, dropout=P, seed=seed)
        return np.array(layer(x, training=True))

    return theirs


def keras_state(cls):
    """Returns the state `x` as each gate reads it."""

    @cache
    def gate_multiplier(gate, n, features, seed):
        layer = linear_recurrent(cls, gate, features, True, recurrent_dropout=P, seed=seed)
        inputs = np.random.default_rng(1).uniform(1, 2, (n, 2, features)).astype(np.float32)
        first = inputs[:, 0] + 1
        states = [first] * (1 + (cls is keras.layers.LSTM))
        after = np.array(layer(inputs, initial_state=states, training=True))
        before = np.stack([first, after[:, 0]], axis=1)
        _, times_before = GATES[cls][gate]
        multiplier = ((after / before if times_before else after) - inputs) / before
        np.testing.assert_allclose(multiplier[:, 0], multiplier[:, 1], atol=1e-5)
        return multiplier[:, 0]

    def theirs(x, seed):
        gates = range(len(GATES[cls]))
        y = x * np.stack([gate_multiplier(gate, *x.shape, seed) for gate in gates])
        return y[0] if len(gates) == 1 else y

    return theirs


# Attention whose weights are uniform, and whose values are one-hot, so that its output is
# what the weights are multiplied by, over the number of keys. `x` stands for the weights.


def queries_keys_and_values(shape, packed):
    """Returns ``(B, H, L, S)`` arrays, or ``(B, L, H * S)`` as layers take them."""
    batch, heads, _, keys = shape
    q, k = np.zeros(shape, np.float32), np.zeros((batch, heads, keys, keys), np.float32)
    v = k + np.eye(keys, dtype=np.float32)
    if not packed:
        return q, k, v
    return [a.swapaxes(1, 2).reshape(batch, -1, heads * keys) for a in (q, k, v)]


def of_weights(call, packed):
    """Wraps a call of ``(q, k, v, seed)``, and returns a function of weights."""

    def theirs(x, seed):
        batch, heads, queries, keys = x.shape
        y = np.asarray(call(*queries_keys_and_values(x.shape, packed), seed))
        assert y.dtype == np.float32
        if packed:
            y = y.reshape(batch, queries, heads, keys).swapaxes(1, 2)
        return x * y * keys

    return theirs


class IdentityAttention(chandrop.nn.MultiHeadAttention):
    """Attention whose projections are the identity."""

    def __init__(self, d, *args, **kwargs):
        super().__init__(d, *args, **kwargs)
        for name in ("query_proj", "key_proj", "value_proj", "out_proj"):
            self[name].weight = mx.eye(d)


def our_attention(line, x, seed):
    """Evaluates our cell for attention, as `ours` does for an input."""
    _, heads, _, width = x.shape

    def call(q, k, v, seed):
        mx.random.seed(seed)
        own = {"d": heads * width, "h": heads, "MultiHeadAttention": IdentityAttention}
        arrays = {"q": mx.array(q), "k": mx.array(k), "v": mx.array(v)}
        return our_line(line, **own, **arrays, scale=1.0, key=mx.random.key(seed))

    return of_weights(call, packed=line.startswith("MultiHeadAttention"))(x, seed)


def torch_attention(q, k, v, seed):
    torch.default_generator.manual_seed(seed)
    q, k, v = map(torch.tensor, (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, dropout_p=P).numpy()


def heads_of(shape_of_queries, v):
    """Returns the number of heads and their width: there are as many keys."""
    return shape_of_queries[-1] // v.shape[1], v.shape[1]


def torch_attention_layer(q, k, v, seed):
    (heads, _), d = heads_of(q.shape, v), q.shape[-1]
    layer = torch.nn.MultiheadAttention(d, heads, P, bias=False, batch_first=True)
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.eye(d).repeat(3, 1))
        layer.out_proj.weight.copy_(torch.eye(d))
        torch.default_generator.manual_seed(seed)
        y, _ = layer(*map(torch.tensor, (q, k, v)), need_weights=False)
    return y.numpy()


def keras_attention(build):
    def call(q, k, v, seed):
        layer = build(*heads_of(q.shape, v), dropout=P, use_bias=False, seed=seed)
        layer.build(q.shape, v.shape, k.shape)
        layer.set_weights([np.eye(q.shape[-1]).reshape(w.shape) for w in layer.weights])
        return layer(q, v, k, training=True)

    return call


def flax_linen_attention(**kwargs):
    def call(q, k, v, seed):
        heads, _ = heads_of(q.shape, v)
        layer = flax.linen.MultiHeadAttention(
            heads, dropout_rate=P, use_bias=False, deterministic=False, **kwargs
        )
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(seed)}
        shapes = jax.eval_shape(partial(layer.init, rngs), q, k, v)
        eye = jnp.eye(q.shape[-1])
        weights = jax.tree.map(lambda weight: eye.reshape(weight.shape), shapes)
        return layer.apply(weights, q, k, v, rngs=rngs)

    return call


def flax_nnx_attention(**kwargs):
    def call(q, k, v, seed):
        (heads, _), d = heads_of(q.shape, v), q.shape[-1]
        rngs = flax.nnx.Rngs(seed)
        layer = flax.nnx.MultiHeadAttention(
            *(heads, d),
            dropout_rate=P,
            use_bias=False,
            deterministic=False,
            decode=False,
            rngs=rngs,
            **kwargs,
        )
        for part in (layer.query, layer.key, layer.value, layer.out):
            part.kernel[...] = jnp.eye(d).reshape(part.kernel.shape)
        return layer(q, k, v)

    return call


def flax_nnx_attention_function(q, k, v, seed):
    q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
    key = jax.random.key(seed)
    y = flax.nnx.dot_product_attention(
        *(q, k, v), dropout_rate=P, dropout_rng=key, deterministic=False
    )
    return y.swapaxes(1, 2)


def equinox_attention(q, k, v, seed):
    (heads, _), d = heads_of(q.shape, v), q.shape[-1]
    layer = equinox.nn.MultiheadAttention(heads, d, dropout_p=P, key=jax.random.key(0))

    def weights(layer):
        parts = layer.query_proj, layer.key_proj, layer.value_proj, layer.output_proj
        return [part.weight for part in parts]

    layer = equinox.tree_at(weights, layer, [jnp.eye(d)] * 4)
    keys = jax.random.split(jax.random.key(seed), len(q))
    return jax.vmap(lambda q, k, v, key: layer(q, k, v, key=key))(q, k, v, keys)


# The comparisons.


def noise(call, shape, seeds):
    """Returns the shift and the multiplier for each seed, stacked in this order."""
    x = np.abs(np.random.default_rng(0).normal(size=shape)).astype(np.float32) + 0.1
    noises = []
    for seed in range(seeds):
        shift, sum_, y = (call(z, seed) for z in (np.zeros_like(x), np.ones_like(x), x))
        assert y.dtype == np.float32
        multiplier = sum_ - shift
        np.testing.assert_allclose(y, multiplier * x + shift, rtol=1e-5, atol=1e-5)
        noises.append([shift, multiplier])
    return np.stack(noises, axis=1)


def varies_along(multipliers):
    """Returns the axes along which it varies, not counting the leading axis of seeds."""
    return [
        a for a in range(multipliers.ndim - 1) if np.ptp(multipliers, a + 1).max() > 1e-4
    ]


@cache
def exact_test(rate, false_alarms, counts, deviation):
    """Returns a test and the number of draws that it needs."""
    test = Binomial(rate, false_alarms, counts, deviation)
    return test, test.draws


class Mask:
    """Each draw takes one of two values, each a multiplier and a shift."""

    rate = P
    ours = staticmethod(ours)

    def __init__(self, theirs, *shapes):
        self.theirs, self.shapes = theirs, shapes

    def compare(self, line, false_alarms):
        calls = [partial(self.ours, line), self.theirs]
        for shape in self.shapes:
            noises = [noise(call, shape, seeds=3) for call in calls]
            assert noises[0].shape == noises[1].shape
            np.testing.assert_allclose(*map(self.values, noises), rtol=1e-6, atol=1e-5)
            varying = varies_along(noises[0][1])
            assert varying == varies_along(noises[1][1])
            # With gates, the output has one more axis than the input.
            more = noises[0].ndim - 2 - len(shape)
            each = false_alarms / len(calls) / len(self.shapes)
            for call in calls:
                self.check_draws(call, shape, varying, more, each)

    def values(self, noise):
        """Returns the range of both values, for what is dropped and for what is kept."""
        dropped = self.is_dropped(noise[1])
        groups = noise[:, dropped], noise[:, ~dropped]
        return [limit(group, axis=1) for group in groups for limit in (np.min, np.max)]

    def is_dropped(self, multiplier):
        return multiplier < 0.5

    def check_draws(self, call, shape, varying, more, false_alarms):
        """Checks the rate, and independence along every axis that varies.

        In disjoint pairs of independent neighbours, both are dropped at the square of the
        rate. This detects an error of 2 % in the rate, and of 5 % in its square.
        """
        test, least = exact_test(self.rate, false_alarms / 3, 1, 0.02)
        square, least_pairs = exact_test(self.rate**2, false_alarms / 3, len(varying), 0.05)
        n = max(least, 3 * least_pairs)
        axes = [axis - more for axis in varying if axis >= more]
        many = [16 if axis in axes else 1 for axis in range(len(shape))]
        many[axes[0]] = 2 * -(-n // (2 * 16 ** (len(axes) - 1)))
        x = np.ones(many, np.float32)
        multiplier = call(x, 0) - call(0 * x, 0)
        self.check_distribution(multiplier, false_alarms / 3)
        dropped = self.is_dropped(multiplier)
        test.check(dropped.sum(), dropped.size)
        for axis in varying:
            last = dropped.shape[axis] // 2 * 2
            first, second = (dropped.take(range(i, last, 2), axis) for i in (0, 1))
            square.check((first & second).sum(), first.size)

    def check_distribution(self, multiplier, false_alarms):
        """Does nothing: the rate determines the distribution of a mask."""


class Weights(Mask):
    """The weights of attention are what is dropped."""

    ours = staticmethod(our_attention)

    def __init__(self, call, packed=True):
        super().__init__(of_weights(call, packed), (3, 4, 6, 8))


class MaskOfBatch(Mask):
    """One draw serves the whole input, so calls are counted."""

    def compare(self, line, false_alarms):
        test, n = exact_test(P, false_alarms / 2, 1, 0.1)
        for call in (partial(ours, line), self.theirs):
            _, multipliers = noise(call, *self.shapes, seeds=20)
            assert varies_along(multipliers) == []
            np.testing.assert_allclose(np.unique(multipliers), [0, 1 / (1 - P)], rtol=1e-6)
            x = np.ones((1, 1), np.float32)
            test.check(sum(call(x, seed).item() == 0 for seed in range(n)), n)


class Gaussian(Mask):
    """Counts how often the multiplier is below its mean."""

    rate = 0.5

    def is_dropped(self, multiplier):
        return multiplier < 1

    def values(self, noise):
        shift, _ = noise
        return np.unique(shift)

    def check_distribution(self, multiplier, false_alarms):
        """Checks mean and variance by their exact distributions, to within 2 %."""
        variance, tail = P / (1 - P), false_alarms / 4
        n, around = multiplier.size, multiplier.astype(np.float64) - 1
        assert abs(around.mean()) < norm.isf(tail, scale=np.sqrt(variance / n)) < 0.02
        low, high = chi2.ppf(tail, n), chi2.isf(tail, n)
        assert 0.98 < low / n < high / n < 1.02
        assert low < (around**2).sum() / variance < high


class Rates:
    """Compares numbers, not masks."""

    def __init__(self, theirs):
        self.theirs = theirs

    def compare(self, line, false_alarms):
        for n in (1, 2, 12):
            np.testing.assert_allclose(our_line(line, n=n), self.theirs(n), atol=1e-7)


class Kept:
    """Both keep as many tokens of each example, in order, and return their places."""

    dtype, prefix = mx.uint32, 1

    def __init__(self, theirs):
        self.theirs = theirs

    def compare(self, line, false_alarms):
        for tokens in (1, 10, 13, 40):
            numbers = 100 * np.arange(6)[:, None] + np.arange(self.prefix + tokens)
            x = np.repeat(numbers[..., None], 4, axis=-1).astype(np.float32)
            for call in (partial(ours, line, dtype=self.dtype), self.theirs):
                kept = [self.places(call(x, seed).astype(int)) for seed in range(3)]
                assert np.shape(kept) == (3, 6, max(1, round(tokens * (1 - P))))
                assert (np.diff(kept) > 0).all()
                assert 0 <= np.min(kept) <= np.max(kept) < tokens
                if tokens == 40:
                    assert len(np.unique(np.concatenate(kept), axis=0)) == 18

    def places(self, kept):
        return kept


class Tokens(Kept):
    """As Kept, but they return the tokens, whose numbers tell the places."""

    dtype = mx.float32

    def __init__(self, theirs, prefix=1):
        self.theirs, self.prefix = theirs, prefix

    def places(self, y):
        np.testing.assert_array_equal(y, np.broadcast_to(y[..., :1], y.shape))
        examples, places = np.divmod(y[..., 0], 100)
        np.testing.assert_array_equal(examples.T, [np.arange(len(y))] * y.shape[1])
        prefix, kept = places[:, : self.prefix], places[:, self.prefix :]
        np.testing.assert_array_equal(prefix, [np.arange(self.prefix)] * len(y))
        return kept - self.prefix


class DroppedWeights:
    """Compares the outputs of modules with the same numbers, and the same mask."""

    def __init__(self, build, theirs, shape):
        self.build, self.theirs, self.shape = build, theirs, shape

    def compare(self, line, false_alarms):
        x = np.random.default_rng(0).normal(size=self.shape).astype(np.float32)
        module, key = self.build(), mx.random.key(0)
        weight = module["Wh" if "Wh" in module else "weight"]
        y = our_line(line, module=module, x=mx.array(x), key=key)
        mask = chandrop.functional.channel_mask(weight.shape, P, key, ())
        theirs = weights.their_output(self.theirs(), module, mask, P, x)
        for output, is_same in ((y, True), (module(mx.array(x)), False)):
            output = output[0] if isinstance(output, tuple) else output
            assert np.allclose(output, theirs, rtol=1e-5, atol=1e-6) == is_same


class Stream:
    """Both give other keys at each call, the same anew, and go on from what is saved."""

    def __init__(self, theirs):
        self.theirs = theirs

    def compare(self, line, false_alarms):
        for build in (partial(OurStream, line), self.theirs):
            stream = build()
            keys = [tuple(stream()) for _ in range(5)]
            assert len(set(keys)) == 5
            again = build()
            assert [tuple(again()) for _ in range(3)] == keys[:3]
            resumed = again.resumed()
            assert [tuple(resumed()) for _ in range(2)] == keys[3:]


class OurStream:
    def __init__(self, line):
        self.line, self.stream = line, our_line(line)

    def __call__(self):
        return self.stream().tolist()

    def resumed(self):
        other = OurStream(self.line)
        chandrop.nn.set_keys(other.stream, chandrop.nn.get_keys(self.stream))
        return other


class SameKeys:
    """The keys are the same numbers, with ``jax_threefry_partitionable`` off."""

    def __init__(self, theirs):
        self.theirs = theirs

    def compare(self, line, false_alarms):
        stream = our_line(line)
        ours = np.array([stream().tolist() for _ in range(5)])
        np.testing.assert_array_equal(ours, self.theirs(5))


def in_window(reduce, array, size, axes):
    view = sliding_window_view(array, [size] * len(axes), axes)
    return reduce(view, axis=tuple(range(-len(axes), 0)))


def is_union_of_blocks(dropped, size, axes):
    """Whether whole blocks, cut at the border, cover exactly what is dropped."""
    pad = [(size - 1, size - 1) if a in axes else (0, 0) for a in range(dropped.ndim)]
    begins = in_window(np.all, np.pad(dropped, pad, constant_values=True), size, axes)
    return np.array_equal(in_window(np.any, begins, size, axes), dropped)


def seeds_within(n, size):
    """Counts the blocks within n pixels that cover each pixel, as in torchvision."""
    begins = np.arange(n - size + 1)
    return [((begins <= i) & (i < begins + size)).sum() for i in range(n)]


def seeds_around(n, size):
    """Counts the pixels whose block covers each pixel, as in timm."""
    begins = np.arange(n) - size // 2
    return [((begins <= i) & (i < begins + size)).sum() for i in range(n)]


def their_block_rates(p, size, space, seeds):
    """Returns the rates at which torchvision and timm drop each position."""
    inner = np.prod([n - size + 1 for n in space])
    gamma = p * np.prod(space) / size ** len(space) / inner
    covering = 1
    for n in space:
        covering = np.multiply.outer(covering, seeds(n, size))
    return 1 - (1 - gamma) ** covering


class Blocks:
    """Both drop blocks of one size, per channel or the same in all channels.

    Where the definitions differ, each library is checked against its own: the rate of each
    position, and the scale of what is kept.
    """

    def __init__(self, theirs, shape, seeds):
        self.theirs, self.shape, self.seeds = theirs, shape, seeds

    def compare(self, line, false_alarms):
        axes = range(1, len(self.shape) - 1)
        calls = [partial(ours, line), self.theirs]
        varying = []
        for call in calls:
            shift, multipliers = noise(call, self.shape, seeds=3)
            assert not shift.any()
            dropped = multipliers == 0
            varying.append(varies_along(dropped.astype(int)))
            sizes = [
                size
                for size in range(1, min(self.shape[1:-1]) + 1)
                if is_union_of_blocks(dropped, size, [axis + 1 for axis in axes])
            ]
            assert max(sizes) == BLOCK_SIZE
            for multiplier in multipliers:
                scale = 1 / (1 - P) if call is calls[0] else 1 / (multiplier != 0).mean()
                np.testing.assert_allclose(multiplier[multiplier != 0], scale, rtol=1e-5)
        assert varying[0] == varying[1]
        channels = 4 if axes[-1] + 1 in varying[0] else 1
        space = (4, 5, 3)[: len(axes)]
        theirs = np.round(their_block_rates(P, BLOCK_SIZE, space, self.seeds), 12)
        for call, rates in zip(calls, [np.full(space, P), theirs], strict=True):
            self.check_rates(call, rates, channels, false_alarms / 2)

    def check_rates(self, call, rates, channels, false_alarms):
        """Checks the rate of each position, and independence in the middle.

        Positions of one image depend on one another, so each count takes one position per
        image. This detects an error of 5 % in a rate (10 % below P), and of 10 % in the
        square.
        """
        alike, middle = np.unique(rates), tuple(n // 2 for n in rates.shape)
        tests = {
            rate: exact_test(
                *(rate, false_alarms / 2 / len(alike), (rates == rate).sum()),
                0.05 if rate >= P else 0.1,
            )
            for rate in alike
        }
        square, least = exact_test(rates[middle] ** 2, false_alarms / 2, 2, 0.1)
        n = 2 * max(least, *(-(-least // channels // 2) for _, least in tests.values()))
        dropped = call(np.ones((n, *rates.shape, channels), np.float32), 0) == 0
        counts = dropped.sum((0, -1))
        for rate, (test, _) in tests.items():
            test.check(counts[rates == rate], n * channels)
        at_middle = dropped[(slice(None), *middle)]
        pairs = [at_middle[::2, 0] & at_middle[1::2, 0]]
        if channels > 1:
            pairs.append(at_middle[:, 0] & at_middle[:, 1])
        for pair in pairs:
            square.check(pair.sum(), pair.size)


DROP_BLOCK_2D = partial(timm.drop_block_2d, drop_prob=P, block_size=BLOCK_SIZE)
IMAGES, VOLUMES = (4, 9, 11, 6), (3, 7, 6, 8, 5)
BROADCAST = {"broadcast_dims": (1, 2)}

PEERS = {
    "torch": {
        "nn.Dropout(p)": Mask(with_torch(torch.nn.Dropout(P)), NC, NHWC),
        "nn.Dropout1d(p)": Mask(with_torch(torch.nn.Dropout1d(P), 1), NLC, LC),
        "nn.Dropout2d(p)": Mask(with_torch(torch.nn.Dropout2d(P)), NHWC),
        "nn.Dropout3d(p)": Mask(with_torch(torch.nn.Dropout3d(P), 3), NDHWC, DHWC),
        "nn.AlphaDropout(p)": Mask(with_torch(torch.nn.AlphaDropout(P)), NC, NHWC),
        **{
            f"nn.FeatureAlphaDropout(p) on {layout}": Mask(
                with_torch(torch.nn.FeatureAlphaDropout(P)), shape
            )
            for layout, shape in {"NCL": NLC, "NCHW": NHWC, "NCDHW": NDHWC}.items()
        },
        **{
            f"nn.{cls.__name__}(dropout=p), between layers": Mask(
                torch_between_layers(cls), NLC
            )
            for cls in (torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU)
        },
        "F.dropout(x, p)": Mask(with_torch(partial(functional.dropout, p=P)), NC, NHWC),
        "F.dropout1d(x, p)": Mask(
            with_torch(partial(functional.dropout1d, p=P), 1), NLC, LC
        ),
        "F.dropout2d(x, p)": Mask(with_torch(partial(functional.dropout2d, p=P)), NHWC),
        "F.dropout3d(x, p)": Mask(
            with_torch(partial(functional.dropout3d, p=P), 3), NDHWC, DHWC
        ),
        "F.alpha_dropout(x, p, training=True)": Mask(
            with_torch(partial(functional.alpha_dropout, p=P, training=True)),
            NC,
            NHWC,
        ),
        "F.feature_alpha_dropout(x, p, training=True)": Mask(
            with_torch(partial(functional.feature_alpha_dropout, p=P, training=True)),
            *(NC, NLC, NHWC, NDHWC),
        ),
        "nn.MultiheadAttention(d, h, dropout=p)": Weights(torch_attention_layer),
        "F.scaled_dot_product_attention(q, k, v, dropout_p=p)": Weights(
            torch_attention, packed=False
        ),
    },
    "Keras": {
        "Dropout(p)": Mask(with_keras(partial(keras.layers.Dropout, P)), NHWC),
        "Dropout(p, noise_shape=(None, 1, 1, None))": Mask(
            with_keras(partial(keras.layers.Dropout, P, (None, 1, 1, None))), NHWC
        ),
        "Dropout(p, noise_shape=(1, None, None, None))": Mask(
            with_keras(partial(keras.layers.Dropout, P, (1, None, None, None))), NHWC
        ),
        **{
            f"{cls.__name__}(p)": Mask(with_keras(partial(cls, P)), shape)
            for cls, shape in [
                (keras.layers.SpatialDropout1D, NLC),
                (keras.layers.SpatialDropout2D, NHWC),
                (keras.layers.SpatialDropout3D, NDHWC),
            ]
        },
        'SpatialDropout2D(p, data_format="channels_first")': Mask(
            with_keras(partial(keras.layers.SpatialDropout2D, P, "channels_first")), NHWC
        ),
        "GaussianDropout(p)": Gaussian(
            with_keras(partial(keras.layers.GaussianDropout, P)), NHWC
        ),
        "AlphaDropout(p)": Mask(with_keras(partial(keras.layers.AlphaDropout, P)), NHWC),
        "AlphaDropout(p, noise_shape=(None, 1, 1, None))": Mask(
            with_keras(partial(keras.layers.AlphaDropout, P, (None, 1, 1, None))), NHWC
        ),
        "random.dropout(x, p)": Mask(
            with_key(lambda x, key: keras.random.dropout(x, P, seed=key)), NHWC
        ),
        "random.dropout(x, p, noise_shape=(n, 1, 1, c))": Mask(
            with_key(
                lambda x, key: keras.random.dropout(
                    x, P, noise_shape=(x.shape[0], 1, 1, x.shape[-1]), seed=key
                )
            ),
            NHWC,
        ),
        **{
            f"{cls.__name__}(dropout=p), of its input": Mask(keras_input(cls), NLC)
            for cls in GATES
        },
        **{
            f"{cls.__name__}(recurrent_dropout=p), of its state"
            + " for each gate" * (len(gates) > 1): Mask(keras_state(cls), NC)
            for cls, gates in GATES.items()
        },
        "MultiHeadAttention(h, n, dropout=p)": Weights(
            keras_attention(keras.layers.MultiHeadAttention)
        ),
        "GroupQueryAttention(n, h, g, dropout=p)": Weights(
            keras_attention(
                lambda heads, width, **kwargs: keras.layers.GroupQueryAttention(
                    width, heads, heads, **kwargs
                )
            )
        ),
    },
    "Flax": {
        "linen.Dropout(p)": Mask(flax_linen(), NHWC),
        "linen.Dropout(p, broadcast_dims=(1, 2))": Mask(flax_linen(**BROADCAST), NHWC),
        "nnx.Dropout(p)": Mask(flax_nnx(), NHWC),
        "nnx.Dropout(p, broadcast_dims=(1, 2))": Mask(flax_nnx(**BROADCAST), NHWC),
        "linen.MultiHeadAttention(h, dropout_rate=p)": Weights(flax_linen_attention()),
        "linen.MultiHeadAttention(h, dropout_rate=p, broadcast_dropout=False)": Weights(
            flax_linen_attention(broadcast_dropout=False)
        ),
        "nnx.MultiHeadAttention(h, d, dropout_rate=p)": Weights(flax_nnx_attention()),
        "nnx.MultiHeadAttention(h, d, dropout_rate=p, broadcast_dropout=False)": Weights(
            flax_nnx_attention(broadcast_dropout=False)
        ),
        "nnx.dot_product_attention(q, k, v, dropout_rate=p)": Weights(
            flax_nnx_attention_function, packed=False
        ),
        "nnx.Rngs(0)": Stream(streams.FlaxRngs),
    },
    "Equinox": {
        "nn.Dropout(p)": Mask(
            with_key(lambda x, key: equinox.nn.Dropout(P)(x, key=key)), NHWC
        ),
        "nn.MultiheadAttention(h, d, dropout_p=p)": Weights(equinox_attention),
    },
    "Haiku": {
        "dropout(key, p, x)": Mask(with_key(lambda x, key: haiku.dropout(key, P, x)), NHWC),
        "dropout(key, p, x, broadcast_dims=(1, 2))": Mask(
            with_key(lambda x, key: haiku.dropout(key, P, x, **BROADCAST)), NHWC
        ),
        "PRNGSequence(0)": Stream(streams.HaikuSequence),
        "next_rng_key(), of PRNGKey(0)": SameKeys(streams.haiku_next_keys),
    },
    "mlx.nn": {
        "Dropout(p)": Mask(with_mlx(nn.Dropout(P)), NC, NHWC),
        "Dropout2d(p)": Mask(with_mlx(nn.Dropout2d(P)), NHWC, HWC),
        "Dropout3d(p)": Mask(with_mlx(nn.Dropout3d(P)), NDHWC, DHWC),
    },
    "timm": {
        "DropPath(p)": Mask(with_torch(timm.DropPath(P)), NC, NHWC),
        "DropPath(p, scale_by_keep=False)": Mask(
            with_torch(timm.DropPath(P, scale_by_keep=False)), NC, NHWC
        ),
        "drop_path(x, p, training=True)": Mask(
            with_torch(partial(timm.drop_path, drop_prob=P, training=True)), NC, NHWC
        ),
        "drop_path(x, p, training=True, scale_by_keep=False)": Mask(
            with_torch(
                partial(timm.drop_path, drop_prob=P, training=True, scale_by_keep=False)
            ),
            *(NC, NHWC),
        ),
        "calculate_drop_path_rates(p, n)": Rates(
            partial(timm.calculate_drop_path_rates, P)
        ),
        "DropBlock2d(p, block_size)": Blocks(
            with_torch(timm.DropBlock2d(P, BLOCK_SIZE)), IMAGES, seeds_around
        ),
        "DropBlock2d(p, block_size, couple_channels=False)": Blocks(
            with_torch(timm.DropBlock2d(P, BLOCK_SIZE, couple_channels=False)),
            *(IMAGES, seeds_around),
        ),
        "drop_block_2d(x, p, block_size)": Blocks(
            with_torch(DROP_BLOCK_2D), IMAGES, seeds_around
        ),
        "drop_block_2d(x, p, block_size, couple_channels=False)": Blocks(
            with_torch(partial(DROP_BLOCK_2D, couple_channels=False)), IMAGES, seeds_around
        ),
        "PatchDropout(p, ordered=True)": Tokens(
            with_tokens(timm_patches.PatchDropout(P, ordered=True))
        ),
        "PatchDropout(p, num_prefix_tokens=3, ordered=True)": Tokens(
            with_tokens(timm_patches.PatchDropout(P, 3, ordered=True)), prefix=3
        ),
        "PatchDropoutWithIndices(p, ordered=True), its indices": Kept(
            with_tokens(timm_patches.PatchDropoutWithIndices(P, ordered=True), 1)
        ),
        "patch_dropout_forward(x, p, 1, True, True), its tokens": Tokens(
            with_tokens(
                lambda x: timm_patches.patch_dropout_forward(x, P, 1, True, True), 0
            )
        ),
    },
    "torchvision": {
        'StochasticDepth(p, "row")': Mask(
            with_torch(tv_depth.StochasticDepth(P, "row")), NC, NHWC
        ),
        'StochasticDepth(p, "batch")': MaskOfBatch(
            with_torch(tv_depth.StochasticDepth(P, "batch")), NHWC
        ),
        'stochastic_depth(x, p, "row")': Mask(
            with_torch(partial(tv_depth.stochastic_depth, p=P, mode="row")), NC, NHWC
        ),
        'stochastic_depth(x, p, "batch")': MaskOfBatch(
            with_torch(partial(tv_depth.stochastic_depth, p=P, mode="batch")), NHWC
        ),
        **{
            f"{name}{args}": Blocks(
                with_torch(
                    partial(call, p=P, block_size=BLOCK_SIZE)
                    if name.islower()
                    else call(P, BLOCK_SIZE)
                ),
                *(shape, seeds_within),
            )
            for name, args, call, shape in [
                ("DropBlock2d", "(p, block_size)", tv_block.DropBlock2d, IMAGES),
                ("DropBlock3d", "(p, block_size)", tv_block.DropBlock3d, VOLUMES),
                ("drop_block2d", "(x, p, block_size)", tv_block.drop_block2d, IMAGES),
                ("drop_block3d", "(x, p, block_size)", tv_block.drop_block3d, VOLUMES),
            ]
        },
    },
    "baal": {
        "WeightDropLinear(p)": DroppedWeights(
            lambda: nn.Linear(4, 6),
            lambda: weights.baal.WeightDropLinear(P, in_features=4, out_features=6),
            (5, 4),
        ),
        "WeightDropConv2d(p)": DroppedWeights(
            lambda: nn.Conv2d(4, 6, 3),
            lambda: weights.baal.WeightDropConv2d(
                P, in_channels=4, out_channels=6, kernel_size=3
            ),
            (2, 5, 6, 4),
        ),
    },
    "torchnlp": {
        "LockedDropout(p), time first": Mask(
            with_torch(weights.torchnlp_locked.LockedDropout(P)), NLC
        ),
        'WeightDrop(lstm, ["weight_hh_l0"], p)': DroppedWeights(
            lambda: nn.LSTM(4, 6),
            partial(weights.weight_dropped_lstm, P),
            (2, 5, 4),
        ),
        "WeightDropLSTM(weight_dropout=p)": DroppedWeights(
            lambda: nn.LSTM(4, 6),
            lambda: weights.torchnlp.WeightDropLSTM(
                4, 6, batch_first=True, weight_dropout=P
            ),
            (2, 5, 4),
        ),
        "WeightDropGRU(weight_dropout=p)": DroppedWeights(
            lambda: nn.GRU(4, 6),
            lambda: weights.torchnlp.WeightDropGRU(
                4, 6, batch_first=True, weight_dropout=P
            ),
            (2, 5, 4),
        ),
        "WeightDropLinear(weight_dropout=p)": DroppedWeights(
            lambda: nn.Linear(4, 6),
            lambda: weights.torchnlp.WeightDropLinear(4, 6, weight_dropout=P),
            (5, 4),
        ),
    },
}
ROWS = table()


def test_every_row_has_its_test_and_every_test_its_row():
    assert list(ROWS) == [(lib, name) for lib, peers in PEERS.items() for name in peers]


# Flax takes values that are square for a mask.
@pytest.mark.filterwarnings("ignore:You are passing an array of:DeprecationWarning")
@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize("row", ROWS, ids=": ".join)
def test_row(row, false_alarms):
    library, name = row
    PEERS[library][name].compare(ROWS[row], false_alarms)


@pytest.mark.parametrize(
    ("library", "exported"),
    [
        ("torch", {*dir(torch.nn), *dir(functional)}),
        ("Keras", {*dir(keras.layers), *dir(keras.random)}),
        ("Flax", {*dir(flax.linen), *dir(flax.nnx)}),
        ("Equinox", {*dir(equinox), *equinox.nn.__dict__} - {"_dropout"}),
        ("Haiku", dir(haiku)),
        ("mlx.nn", {name for name, value in vars(nn).items() if isinstance(value, type)}),
        ("timm", exports_of("timm", "layers")),
        ("torchvision", exports_of("torchvision", "ops")),
        ("torchnlp", exports_of("torchnlp", "nn")),
    ],
)
def test_no_name_is_missing(library, exported):
    dropping = {n for n in exported if re.search("drop|stochastic_?depth", n, re.I)}
    named = {
        re.match(r"(?:\w+\.)?(\w+)\(", name)[1] for lib, name in ROWS if lib == library
    }
    assert dropping
    assert dropping <= named


# The same seeds make the same blocks.


def blocks_of(call, shape, seed_of_shape, monkeypatch):
    """Returns what a torch function drops, channels last, given its seeds."""

    def bernoulli_(noise, gamma):
        return noise.copy_(torch.tensor(np.moveaxis(seed_of_shape(noise.shape), -1, 1)))

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "bernoulli_", bernoulli_)
        y = call(torch.ones(*shape[:1], shape[-1], *shape[1:-1]))
    return np.moveaxis(y.numpy() == 0, 1, -1)


class Seeds:
    """Random seeds, channels last, for a requested channels-first shape."""

    def __call__(self, shape):
        shape = (shape[0], *shape[2:], shape[1])
        self.drawn = np.random.default_rng(0).binomial(1, 0.02, shape).astype(np.uint8)
        return self.drawn


def our_blocks(seeds, size, before, after):
    """Returns our blocks, which begin at seeds: ``size - 1`` more along each axis."""
    axes = range(1, seeds.ndim - 1)
    pad = [(before, after) if axis in axes else (0, 0) for axis in range(seeds.ndim)]
    return np.array(_any_in_block(mx.array(np.pad(seeds, pad)), size, axes)) == 1


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize(
    ("call", "shape"), [(tv_block.drop_block2d, IMAGES), (tv_block.drop_block3d, VOLUMES)]
)
def test_seeds_of_torchvision_give_the_same_blocks(call, shape, size, monkeypatch):
    """Torchvision's seeds are the first pixels of blocks within the image."""
    seeds = Seeds()
    theirs = blocks_of(partial(call, p=P, block_size=size), shape, seeds, monkeypatch)
    np.testing.assert_array_equal(our_blocks(seeds.drawn, size, size - 1, size - 1), theirs)
    assert 0 < theirs.mean() < 1


@pytest.mark.parametrize("couple_channels", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_seeds_of_timm_give_the_same_blocks(size, couple_channels, monkeypatch):
    """Timm's seeds are the middles of blocks, the later of two for an even size."""
    seeds = Seeds()
    call = partial(DROP_BLOCK_2D, block_size=size, couple_channels=couple_channels)
    theirs = blocks_of(call, IMAGES, seeds, monkeypatch)
    blocks = our_blocks(seeds.drawn, size, (size - 1) // 2, size // 2)
    np.testing.assert_array_equal(np.broadcast_to(blocks, theirs.shape), theirs)
    assert 0 < theirs.mean() < 1


# The notes below the table.


@pytest.mark.parametrize(
    ("tokens", "p", "theirs"), [(20, 0.9, 1), (7, 0.3, 4), (8, 0.5, 4)]
)
def test_how_many_tokens_timm_keeps(tokens, p, theirs):
    """The others truncate, also what is an integer but for rounding."""
    kept = timm_patches.PatchDropout(p)(torch.ones(2, 1 + tokens, 4))
    assert kept.shape == (2, 1 + theirs, 4)
    ours = chandrop.thin.PatchDropout(p)(mx.ones((2, 1 + tokens, 4)))
    assert ours.shape == (2, 1 + max(1, round((1 - p) * tokens)), 4)


def test_timm_shuffles_tokens_by_default():
    torch.manual_seed(0)
    x = torch.arange(41.0)[None, :, None].expand(2, -1, 3)
    assert (timm_patches.PatchDropout(P)(x)[..., 0].diff() < 0).any()


@pytest.mark.parametrize(
    ("library", "seeds"), [("torchvision", seeds_within), ("timm", seeds_around)]
)
def test_the_shares_of_blocks_that_the_page_gives(library, seeds):
    rates = their_block_rates(0.1, 7, (28, 28), seeds)
    shares = [rates[14, 14], rates[0, 0], rates.mean()]
    cells = [library, *(f"{100 * share:.1f} %" for share in shares)]
    assert f"| {' | '.join(cells)} |" in PAGE.read_text()


def test_what_block_sizes_are_refused():
    x, theirs = mx.ones((1, 4, 4, 1)), torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="block_size = 5"):
        chandrop.functional.drop_block(x, P, mx.random.key(0), 5, (1, 2))
    with pytest.raises(ValueError, match="should be odd"):
        tv_block.drop_block2d(theirs, P, 2)
    timm.drop_block_2d(theirs, P, 5)
    tv_block.drop_block2d(torch.ones(1, 1, 3, 3), P, 5)


@pytest.mark.filterwarnings("ignore:dropout2d. Received a 3D input:UserWarning")
def test_dropout2d_without_a_batch():
    """Torch reads three axes as NCL, chandrop as HWC."""
    torch.manual_seed(0)
    their_mask = functional.dropout2d(torch.ones(6, 5, 8), P).numpy()[None]
    assert varies_along(their_mask) == [0, 1]
    our_mask = ours("dropout2d(x, p, key)", np.ones((6, 5, 8), np.float32), 0)[None]
    assert varies_along(our_mask) == [2]


@pytest.mark.parametrize(
    ("library", "name", "dropped"),
    [
        ("torch", "nn.Dropout2d(p)", np.nan),
        ("Keras", "Dropout(p)", 0.0),
        ("Flax", "linen.Dropout(p)", 0.0),
        ("Flax", "nnx.Dropout(p)", 0.0),
        ("Equinox", "nn.Dropout(p)", 0.0),
        ("Haiku", "dropout(key, p, x)", 0.0),
        ("mlx.nn", "Dropout2d(p)", np.nan),
        ("timm", "DropPath(p)", np.nan),
        ("torchvision", 'StochasticDepth(p, "row")', np.nan),
    ],
)
def test_a_dropped_inf(library, name, dropped):
    x = np.full(NHWC, np.inf, np.float32)
    theirs = PEERS[library][name].theirs(x, 0)
    assert set(np.unique(theirs).astype(str)) == {str(np.inf), str(np.float32(dropped))}
    assert np.isnan(ours(ROWS[library, name], x, 0)).any()


@pytest.mark.parametrize(
    "call", [nn.Dropout, lambda p: haiku.dropout(None, p, jnp.ones(2))]
)
def test_a_rate_of_one_is_refused(call):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        call(1.0)
