"""A training step of a classifier."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import Optimizer

Step = Callable[[mx.array, mx.array], mx.array]


def training_step(model: nn.Module, optimizer: Optimizer, compiled: bool = True) -> Step:
    """Returns a step, which evaluates the loss, its gradient and an update."""
    optimizer.init(model.trainable_parameters())
    # chandrop's keys are in model.state, mlx.nn's layers draw from the global stream.
    state = [model.state, optimizer.state, mx.random.state]
    mx.eval(state)

    def loss(model: nn.Module, x: mx.array, labels: mx.array) -> mx.array:
        return nn.losses.cross_entropy(model(x), labels, reduction="mean")

    loss_and_gradients = nn.value_and_grad(model, loss)

    def step(x: mx.array, labels: mx.array) -> mx.array:
        value, gradients = loss_and_gradients(model, x, labels)
        optimizer.update(model, gradients)
        return value

    if compiled:
        step = mx.compile(step, inputs=state, outputs=state)

    def evaluated_step(x: mx.array, labels: mx.array) -> mx.array:
        value = step(x, labels)
        mx.eval(value, state)
        return value

    return evaluated_step
