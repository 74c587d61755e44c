"""Networks to train, and their training step."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import Optimizer

from chandrop.nn import rekey
from chandrop.thin import ThinDropPath

Step = Callable[..., mx.array]


class Residual(nn.Module):
    """A residual block."""

    def __init__(self, inside: nn.Module, drop_path: nn.Module | None = None):
        super().__init__()
        self.inside = inside
        self.drop_path = drop_path or nn.Identity()

    def __call__(self, x: mx.array) -> mx.array:
        if isinstance(self.drop_path, ThinDropPath):
            return x + self.drop_path(x, self.inside)
        return x + self.drop_path(self.inside(x))


def training_step(model: nn.Module, optimizer: Optimizer, compiled: bool = True) -> Step:
    """Returns a step ``(x, labels)``, which evaluates the loss, its gradient and an update.

    If it is also given a key, it first gives the dropout layers new keys.
    """
    optimizer.init(model.trainable_parameters())
    # chandrop's keys are in model.state, mlx.nn's layers draw from the global stream.
    state = [model.state, optimizer.state, mx.random.state]
    mx.eval(state)

    def loss(model: nn.Module, x: mx.array, labels: mx.array) -> mx.array:
        return nn.losses.cross_entropy(model(x), labels, reduction="mean")

    loss_and_gradients = nn.value_and_grad(model, loss)

    def step(x: mx.array, labels: mx.array, *key: mx.array) -> mx.array:
        if key:
            rekey(model, *key)
        value, gradients = loss_and_gradients(model, x, labels)
        optimizer.update(model, gradients)
        return value

    if compiled:
        step = mx.compile(step, inputs=state, outputs=state)

    def evaluated_step(*arguments: mx.array) -> mx.array:
        value = step(*arguments)
        mx.eval(value, state)
        return value

    return evaluated_step
