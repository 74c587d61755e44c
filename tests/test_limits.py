"""What MLX cannot do, so that a newer one which can shows."""

import mlx.core as mx
import pytest

from chandrop.functional import dropout2d


def test_random_operations_without_shapes(compiles, key):
    compiled = mx.compile(lambda x: dropout2d(x, 0.5, key), shapeless=True)
    with pytest.raises(ValueError, match="RandomBits"):
        mx.eval(compiled(mx.ones((2, 3, 3, 4))), compiled(mx.ones((4, 3, 3, 4))))


def test_vmap_of_grad_through_stacked_convolutions(key):
    weights = mx.random.normal((3, 2, 3, 3, 2), key=key)
    x = mx.random.normal((1, 6, 6, 2), key=key)
    keys = mx.random.split(key, 3)

    def loss(weight, key):
        return mx.conv2d(dropout2d(mx.conv2d(x, weight), 0.5, key), weight).sum()

    with pytest.raises((ValueError, RuntimeError), match=r"AsStrided|Pad"):
        mx.eval(mx.vmap(mx.grad(loss))(weights, keys))
    gradients = mx.grad(lambda weights: mx.vmap(loss)(weights, keys).sum())(weights)
    for i in range(3):
        assert mx.allclose(
            gradients[i], mx.grad(loss)(weights[i], keys[i]), rtol=1e-4, atol=1e-4
        )
