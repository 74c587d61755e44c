"""Random whole models in use, against the same model of plain layers in a plain loop."""

import pickle
import tempfile
from copy import deepcopy
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from fuzz.blocks import OURS, PLAIN, UNCONVERTED, WIDTH, random_model
from fuzz.limits import limit_of
from fuzz.members import random_key
from fuzz.plain import give_keys, plain_layers
from fuzz.shapes import pick
from mlx.utils import tree_flatten, tree_map

from chandrop.nn import (
    convert,
    functional_call,
    get_keys,
    rekey,
    revert,
    set_keys,
    stack_parameters,
)
from chandrop.random import example_keys

BATCH, LENGTH = 4, 3


class ModelUse:
    """A random model, and a random use of it.

    Args:
        seed: what all of it depends on.
        compiles: whether mx.compile may be used.
    """

    def __init__(self, seed, *, compiles=True):
        self.rng = rng = np.random.default_rng(seed)
        self.block = random_model(rng)
        self.use = pick(rng, USES)
        self.compiles = compiles
        self.x = mx.array(rng.normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32))
        self.key = mx.array(random_key(rng, (2,)))

    def __str__(self):
        compiled = " (compiled)" if self.compiles else ""
        return f"{self.name}{compiled} of {self.block}"

    @property
    def name(self):
        return self.use.__name__

    def limit(self, error=None):
        """What MLX cannot do of this, as an error tells."""
        if error is None:
            return None
        return limit_of(["checkpoint"] * self.block.has("checkpoint") + [self.name], error)

    def run(self):
        """Raises AssertionError where the model is not as the plain one."""
        self.use(self)

    @property
    def shares_draws(self):
        """Whether a layer has one draw for all examples, and takes no key for each."""
        return self.block.has("thin", "connections")

    def models(self, of=OURS):
        """The model and the plain one, with the same parameters."""
        mx.random.seed(int(self.rng.integers(2**32)))
        model, plain = self.block.build(of), self.block.build(PLAIN)
        plain.update(model.parameters())
        return model, plain

    def random_keys(self):
        """One key, one for each example, or one for all examples alike."""
        forms = [self.key, self.key[None]]
        if not self.shares_draws:
            forms.append(example_keys(self.key, BATCH))
        return pick(self.rng, forms)

    def compiled(self, function, state=None):
        if not self.compiles:
            return function
        return mx.compile(function, inputs=state, outputs=state)

    def checkpointed(self, function):
        """The function, at times in one checkpoint or two."""
        for _ in range(pick(self.rng, (0, 0, 1, 2))):
            function = mx.checkpoint(function)
        return function

    def changed(self, tree):
        """Parameters like these, with other numbers."""

        def change(array):
            factor = self.rng.uniform(0.8, 1.2, array.shape).astype(np.float32)
            return array * mx.array(factor)

        return tree_map(change, tree)


def loss(model, x):
    return (model(x) ** 2).mean()


def assert_close(one, other, what):
    """Trees of the same names, that differ by rounding."""
    one, other = dict(tree_flatten(one)), dict(tree_flatten(other))
    assert one.keys() == other.keys(), f"{what}: {one.keys() ^ other.keys()}"
    for name in one:
        expected = np.array(other[name])
        largest = np.abs(expected).max(initial=0)
        np.testing.assert_allclose(
            one[name], expected, 1e-3, 1e-4 * (1 + largest), err_msg=f"{what}: {name}"
        )


def assert_keys(model, plain, what="keys"):
    expected = {path: layer.key for path, layer in plain_layers(plain).items()}
    received = get_keys(model)
    assert received.keys() == expected.keys(), what
    for path, key in expected.items():
        np.testing.assert_array_equal(received[path], key, f"{what}: {path}")


def share_keys(model, plain):
    """Gives the plain layers the keys that those of the model hold."""
    keys = get_keys(model)
    for path, layer in plain_layers(plain).items():
        layer.key = np.array(keys[path])


def fix_statistics(*models):
    """MLX would leave the members' running statistics in the model."""
    for model in models:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm):
                module.eval()


def with_parameters(plain, parameters, key):
    """The plain model as a function of its parameters and a key."""
    plain.update(parameters)
    give_keys(plain, key)
    return plain


def functional_calls(use):
    """Outputs and gradients for parameters that are not the model's own."""
    model, plain = use.models()
    given = use.changed(model.trainable_parameters())
    key = use.random_keys()
    in_eval_mode = use.rng.random() < 0.3
    if in_eval_mode:
        model.eval()
        fix_statistics(plain)
    held = {name: id(array) for name, array in tree_flatten(model.state)}

    def call(parameters, x, key):
        return functional_call(model, parameters, x, key=key, dropout=True)

    call = use.checkpointed(call)

    def value(parameters, x, key):
        return (call(parameters, x, key) ** 2).mean()

    received = use.compiled(mx.value_and_grad(value, argnums=(0, 1)))(given, use.x, key)
    expected = mx.value_and_grad(
        lambda parameters, x: loss(with_parameters(plain, parameters, key), x),
        argnums=(0, 1),
    )(given, use.x)
    assert_close(received, expected, "value and gradients")
    left = {name: id(array) for name, array in tree_flatten(model.state)}
    assert left == held, "the model is not as before"
    assert all(m.training is not in_eval_mode for m in model.modules()), "the modes"


def functional_steps(use):
    """A loop that is pure: parameters, with running statistics, go in and come out."""
    model, plain = use.models()
    parameters = model.parameters()
    plain.update(parameters)
    for key in mx.random.split(use.key, 2):
        y, parameters = functional_call(
            model, parameters, use.x, key=key, return_state=True
        )
        give_keys(plain, key)
        assert_close(y, plain(use.x), "output")
        assert_close(parameters, plain.parameters(), "parameters")


def training(use):
    """Losses, parameters and keys of three steps by the layers' own keys."""
    model, plain = use.models()
    share_keys(model, plain)
    step = use.compiled(training_step(model), model.state)
    plain_step = training_step(plain)
    for i in range(3):
        x = use.x * (1 + i / 4)
        assert_close(step(x), plain_step(x), f"loss {i}")
        assert_keys(model, plain, f"keys {i}")
    assert_close(model.trainable_parameters(), plain.trainable_parameters(), "parameters")


def training_step(model):
    def step(x):
        value, gradients = nn.value_and_grad(model, loss)(model, x)
        parameters = model.trainable_parameters()
        # Small steps, since a loss that grows without end ends in nan.
        model.update(tree_map(lambda p, g: p - 0.01 * g, parameters, gradients))
        return value

    return step


def vmapped_calls(use):
    """An ensemble with parameters and keys of its own, and its gradient."""
    model, plain = use.models()
    fix_statistics(model, plain)
    parameters = model.parameters()
    if use.block.has("checkpoint of mlx.nn's"):
        # Which gives no gradient to running statistics.
        parameters = model.trainable_parameters()
    members = [use.changed(parameters) for _ in range(3)]
    stacked = tree_map(lambda *arrays: mx.stack(arrays), *members)
    keys = mx.random.split(use.key, 3)
    axes = (0, None, 0)

    def call(parameters, x, key):
        return functional_call(model, parameters, x, key=key)

    checkpointed = use.checkpointed(call)

    def value(parameters, x, key):
        return (checkpointed(parameters, x, key) ** 2).mean()

    def gradient_of_sum(stacked, x, keys):
        def total(stacked):
            values = mx.vmap(value, axes)(stacked, x, keys)
            return values.sum(), values

        (_, values), gradients = mx.value_and_grad(total)(stacked)
        return values, gradients

    gradients = gradient_of_sum
    # MLX has no vmap of the gradient of these.
    hard = checkpointed is not call or use.block.has("checkpoint", "convolution")
    if not hard and use.rng.random() < 0.5:
        gradients = mx.vmap(mx.value_and_grad(value), axes)
    received = use.compiled(gradients)(stacked, use.x, keys)
    for i, (parameters, key) in enumerate(zip(members, keys, strict=True)):
        own = tree_map(lambda array, i=i: array[i], received)
        expected = mx.value_and_grad(
            lambda parameters, key=key: loss(with_parameters(plain, parameters, key), use.x)
        )(parameters)
        assert_close(own, expected, f"member {i}")


def vmapped_own_keys(use):
    """Members that differ by the layers' own keys alone."""
    model, plain = use.models()
    fix_statistics(model, plain)
    share_keys(model, plain)
    axis = int(use.rng.integers(-4, 4))
    xs = [use.x, use.x * 0.5, use.x + 1]
    call = use.compiled(mx.vmap(model, in_axes=axis, out_axes=axis), model.state)
    for i in range(2):
        received = call(mx.stack(xs, axis))
        before = {path: layer.key for path, layer in plain_layers(plain).items()}
        expected = []
        for member, x in enumerate(xs):
            for path, layer in plain_layers(plain).items():
                layer.key, layer.members = before[path], (member,)
            expected.append(plain(x))
        assert_close(received, mx.stack(expected, axis), f"outputs {i}")
        assert_keys(model, plain, f"keys {i}")


def gradient_of_vmap(use):
    """The gradient of the sum of members that differ by the layers' own keys."""
    model, plain = use.models()
    fix_statistics(model, plain)
    share_keys(model, plain)
    xs = mx.stack([use.x, use.x * 0.5])
    times = int(use.rng.integers(1, 3))

    def repeated(one):
        return one if times == 1 else lambda x: one(one(x))

    call = use.checkpointed(repeated(model))

    def total(xs):
        return (mx.vmap(call)(xs) ** 2).mean()

    def plain_total(xs):
        before = {path: layer.key for path, layer in plain_layers(plain).items()}
        values = []
        for member in range(2):
            for path, layer in plain_layers(plain).items():
                layer.key, layer.members = before[path], (member,)
            values.append(loss(repeated(plain), xs[member]))
        return sum(values) / 2

    received = use.compiled(mx.value_and_grad(total), model.state)(xs)
    assert_close(received, mx.value_and_grad(plain_total)(xs), "value and gradient")
    assert_keys(model, plain)


def cutting(use):
    """A batch in parts gives the outputs and the gradient that it gives as a whole."""
    model, plain = use.models()
    if use.shares_draws:
        return
    fix_statistics(model, plain)
    given = model.trainable_parameters()

    def total(parameters, x, keys):
        return (functional_call(model, parameters, x, key=keys) ** 2).sum()

    def plain_total(parameters, x):
        return (with_parameters(plain, parameters, keys)(x) ** 2).sum()

    keys = example_keys(use.key, BATCH)
    expected = mx.value_and_grad(plain_total)(given, use.x)
    cuts = [0, *sorted(use.rng.choice(range(1, BATCH), 2, replace=False).tolist()), BATCH]
    step = use.compiled(mx.value_and_grad(total))
    parts = [
        step(given, use.x[begin:end], example_keys(use.key, end - begin, begin))
        for begin, end in pairwise(cuts)
    ]
    assert_close(tree_map(lambda *p: sum(p), *parts), expected, f"cut at {cuts}")


def converting(use):
    """Layers of mlx.nn become chandrop's, and back."""
    model, plain = use.models(UNCONVERTED)
    of_mlx = [m for m in model.modules() if type(m) is nn.Dropout]
    if of_mlx:
        assert convert(model) is model
    assert not any(type(module) is nn.Dropout for module in model.modules())
    rekey(model, use.key)
    give_keys(plain, use.key)
    assert_keys(model, plain, "keys of rekey")
    assert_close(model(use.x), plain(use.x), "output")
    if of_mlx:
        alone = nn.Sequential(*of_mlx)
        revert(alone)
        assert all(type(module) is nn.Dropout for module in of_mlx)
    model.eval(), plain.eval()
    assert_close(model(use.x), plain(use.x), "output in eval mode")


def resuming(use):
    """Saved weights and keys go on as if nothing had been."""
    model, plain = use.models()
    share_keys(model, plain)
    step, plain_step = training_step(model), training_step(plain)
    assert_close(step(use.x), plain_step(use.x), "loss before")
    with tempfile.TemporaryDirectory() as folder:
        model.save_weights(f"{folder}/weights.safetensors")
        mx.save_safetensors(f"{folder}/keys.safetensors", get_keys(model))
        resumed, _ = use.models()
        resumed.load_weights(f"{folder}/weights.safetensors", strict=True)
        set_keys(resumed, mx.load(f"{folder}/keys.safetensors"))
        mx.eval(resumed.state)
    step = use.compiled(training_step(resumed), resumed.state)
    for i in range(2):
        assert_close(step(use.x), plain_step(use.x), f"loss {i} after")
    assert_keys(resumed, plain)


def pickling(use):
    """A pickle keeps the keys; a copy has others, and the same weights."""
    model, plain = use.models()
    share_keys(model, plain)
    copied, pickled = deepcopy(model), pickle.loads(pickle.dumps(model))
    assert_close(copied.parameters(), model.parameters(), "parameters of a copy")
    keys, others = get_keys(model), get_keys(copied)
    assert keys.keys() == others.keys()
    for path, key in keys.items():
        assert not mx.array_equal(others[path], key), f"a copy with the same key: {path}"
    copied(use.x)
    expected = plain(use.x)
    for one in (pickled, model):
        assert_close(one(use.x), expected, "output")
        assert_keys(one, plain)


def exporting(use):
    """A file with the key as an input."""
    model, plain = use.models()
    fix_statistics(model, plain)
    mx.eval(model.state)

    def call(x, key):
        return functional_call(model, {}, x, key=key)

    with tempfile.NamedTemporaryFile(suffix=".mlxfn") as file:
        mx.export_function(file.name, call, use.x, mx.random.key(0))
        imported = mx.import_function(file.name)
        for key in (use.key, mx.random.key(7)):
            give_keys(plain, key)
            assert_close(imported(use.x, key)[0], plain(use.x), "output")


def stacking(use):
    """Stacked parameters, and one key for all members."""
    model, plain = use.models()
    fix_statistics(model, plain)
    other = use.models()[0]
    stacked = stack_parameters([model, other])
    outputs = mx.vmap(
        lambda parameters: functional_call(model, parameters, use.x, key=use.key)
    )(stacked)
    for one, output in zip((model, other), outputs, strict=True):
        expected = with_parameters(plain, one.parameters(), use.key)(use.x)
        assert_close(output, expected, "output")


USES = [
    functional_calls,
    functional_calls,
    functional_steps,
    training,
    training,
    vmapped_calls,
    vmapped_own_keys,
    gradient_of_vmap,
    cutting,
    converting,
    resuming,
    pickling,
    exporting,
    stacking,
]
