"""A training step of a classifier."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import Optimizer

from chandrop.nn import rekey

Step = Callable[..., mx.array]


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
