"""A run that is interrupted and resumed equals the uninterrupted one, bit for bit."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from subjects import assert_same

from chandrop.nn import Dropout, Dropout2d, get_keys, rekey, set_keys
from chandrop.random import fold_in

STEPS, INTERRUPTED = 6, 3


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm(6)
        self.dropouts = [Dropout2d(0.3), Dropout(0.4)]
        self.head = nn.Linear(6, 3)

    def __call__(self, x):
        x = self.dropouts[0](nn.relu(self.norm(self.convolution(x))))
        return self.head(self.dropouts[1](x.mean((1, 2))))


def batch(step):
    return mx.random.normal((4, 5, 5, 2), key=mx.random.key(100 + step))


class Run:
    """Training that can be saved and resumed."""

    def __init__(self, seed, compile_step, by_step):
        mx.random.seed(seed)
        self.model = Network()
        self.optimizer = optim.Adam(optim.cosine_decay(1e-2, STEPS))
        self.optimizer.init(self.model.trainable_parameters())
        state = [self.model.state, self.optimizer.state]
        key = mx.random.key(17)

        def loss(model, x):
            return (model(x) ** 2).mean()

        def step(x, number):
            if by_step:
                rekey(self.model, fold_in(key, number))
            value, gradients = nn.value_and_grad(self.model, loss)(self.model, x)
            self.optimizer.update(self.model, gradients)
            return value

        if compile_step:
            step = mx.compile(step, inputs=state, outputs=state)
        self.step, self.state = step, state

    def train(self, first, last):
        losses = []
        for number in range(first, last):
            losses.append(self.step(batch(number), mx.array(number)))
            mx.eval(losses, self.state)
        return losses

    def save(self, folder, keys):
        self.model.save_weights(f"{folder}/weights.safetensors")
        optimizer = dict(tree_flatten(self.optimizer.state))
        mx.save_safetensors(f"{folder}/optimizer.safetensors", optimizer)
        if keys:
            mx.save_safetensors(f"{folder}/keys.safetensors", get_keys(self.model))

    def resume(self, folder, keys):
        self.model.load_weights(f"{folder}/weights.safetensors", strict=True)
        optimizer = mx.load(f"{folder}/optimizer.safetensors")
        self.optimizer.state.update(tree_unflatten(list(optimizer.items())))
        if keys:
            set_keys(self.model, mx.load(f"{folder}/keys.safetensors"))


def arrays(state):
    return {name: a for name, a in tree_flatten(state) if isinstance(a, mx.array)}


@pytest.mark.parametrize("way", ["saved keys", "a key for each step"])
@pytest.mark.parametrize("compile_step", [False, True], ids=["eager", "compiled"])
def test_resume(way, compile_step, tmp_path):
    by_step = way == "a key for each step"
    whole = Run(1, compile_step, by_step)
    losses = whole.train(0, STEPS)

    interrupted = Run(1, compile_step, by_step)
    first = interrupted.train(0, INTERRUPTED)
    interrupted.save(tmp_path, keys=not by_step)
    resumed = Run(2, compile_step, by_step)
    resumed.resume(tmp_path, keys=not by_step)
    rest = resumed.train(INTERRUPTED, STEPS)

    for loss, expected in zip(first + rest, losses, strict=True):
        assert_same(loss, expected)
    left, expected = arrays(resumed.state), arrays(whole.state)
    assert left.keys() == expected.keys()
    for name in expected:
        assert_same(left[name], expected[name])


def test_without_the_keys_it_is_another_run(tmp_path):
    """So that the test above can fail."""
    whole, interrupted, resumed = (Run(seed, False, False) for seed in (1, 1, 2))
    losses = whole.train(0, STEPS)
    interrupted.train(0, INTERRUPTED)
    interrupted.save(tmp_path, keys=False)
    resumed.resume(tmp_path, keys=False)
    assert not mx.array_equal(resumed.train(INTERRUPTED, STEPS)[0], losses[INTERRUPTED])
