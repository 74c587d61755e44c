"""Law 8: with ``mx.checkpoint``, loss and gradients equal those without it.

A function that takes its key as an argument sees the same key in the recomputation. A
layer needs to be given one: its own key is state, which advances at every call.
"""

import mlx.core as mx
import mlx.nn as nn
import pytest
from subjects import SUBJECTS, normal


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_checkpoint(subject, key):
    x = normal(subject.shape())

    def block(x, key):
        return mx.sin(subject.call(x, 0.5, key)) ** 2

    def loss(x, key, block):
        return (x * block(x, key)).sum()

    plain = mx.value_and_grad(loss)(x, key, block)
    checkpointed = mx.value_and_grad(loss)(x, key, mx.checkpoint(block))
    assert mx.allclose(plain[0], checkpointed[0], rtol=1e-5)
    assert mx.allclose(plain[1], checkpointed[1], rtol=1e-5)


def test_mlx_nn_fails_the_same_check():
    """Why the key is an argument: the recomputation draws another mask."""
    x = normal((64, 64))
    layer = nn.Dropout(0.5)

    def gradient(block):
        mx.random.seed(0)
        return mx.grad(lambda x: (block(x) ** 2).sum())(x)

    plain = gradient(lambda x: mx.sin(layer(x)))
    checkpointed = gradient(mx.checkpoint(lambda x: mx.sin(layer(x))))
    assert not mx.allclose(plain, checkpointed, rtol=1e-5)
