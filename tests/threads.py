"""Eight threads that share one model: run by test_threads.py, in a process of its own."""

import sys
import threading
import time

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from chandrop.nn import Dropout, check_step, checkpoint, functional_call
from chandrop.uncertainty import predict, sample

THREADS, REPEATS = 8, 6


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.dropout = (
            nn.Linear(6, 6),
            nn.BatchNorm(6),
            Dropout(0.5),
        )

    def __call__(self, x):
        return mx.tanh(self.norm(self.dropout(self.linear(x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = [Block() for _ in range(3)]
        self.head = nn.Linear(6, 3)

    def __call__(self, x):
        for i, block in enumerate(self.blocks):
            wrap = (checkpoint, nn.utils.checkpoint, lambda block: block)[i]
            x = wrap(block)(x)
        return self.head(x)


def call(model, x, key):
    return functional_call(model, parameters, x, key=key, return_state=True)


def gradient(model, x, key):
    def loss(parameters):
        return (functional_call(model, parameters, x, key=key) ** 2).mean()

    # mx.grad writes into the containers that it is given, so each call has its own.
    return mx.value_and_grad(loss)(tree_map(lambda array: array, parameters))


def checkpointed(model, x, key):
    """With dropout off there is no key that threads could take from one another."""
    return mx.grad(lambda x: checkpoint(off)(x).sum())(x)


def samples(model, x, key):
    return sample(model, mx.random.split(key, 3), x)


def prediction(model, x, key):
    return list(predict(model, mx.random.split(key, 4), x, batch_size=2, chunk=2))


def checked(model, x, key):
    check_step(model, lambda x: model(x).sum(), x)
    return [functional_call(model, {}, x, key=key)]


TASKS = [call, gradient, checkpointed, samples, prediction, checked]


def run(task, i):
    """The bits of one task's result."""
    x = mx.random.normal((4, 6), key=mx.random.key(i))
    result = task(model, x, mx.random.key(100 + i))
    mx.eval(result)
    return [np.array(array) for _, array in tree_flatten(result)]


mx.random.seed(1)
model, off = Model(), Block().eval()
mx.eval(model.state, off.state)
parameters = model.parameters()
held = dict(tree_flatten(model.state))
jobs = [(task, i) for task in TASKS for i in range(THREADS)]
expected = [run(*job) for job in jobs]
failures = []


def work(start):
    for repeat in range(REPEATS):
        for place in range(len(TASKS)):
            n = (start + (place + repeat) * THREADS) % len(jobs)
            try:
                for one, other in zip(run(*jobs[n]), expected[n], strict=True):
                    np.testing.assert_array_equal(one, other)
            except Exception as error:
                failures.append(f"{jobs[n][0].__name__}: {type(error).__name__}: {error}")
                return


sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=work, args=(start,)) for start in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for name, array in tree_flatten(model.state):
    if array is not held[name]:
        failures.append(f"{name} is not what it was")
print("\n".join(failures) or "the bits of one thread", flush=True)
# MLX ends its threads after ours, and aborts where the process ends first.
time.sleep(0.5)
