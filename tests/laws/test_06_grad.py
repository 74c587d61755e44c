"""Law 6: the vjp is the mask, as the jvp; second order works; the key's is zero."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subjects import SUBJECTS, assert_same, normal

import chandrop
from chandrop.random import example_keys, fold_in

each = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)


def assert_gradient(subject, gradient, expected):
    """The same bits, but where the multiplier is known as a difference alone."""
    rtol, atol = (1e-5, 1e-6) if subject.shifts else (0, 0)
    np.testing.assert_allclose(gradient, expected, rtol=rtol, atol=atol)


@each
@given(st.data())
def test_vjp_is_the_mask(subject, data):
    shape = data.draw(subject.cases())
    p = data.draw(st.floats(0, 1))
    key = mx.random.key(data.draw(st.integers(0, 2**32)))
    x, cotangent = normal(shape), normal(shape, seed=2)
    outputs, vjps = mx.vjp(lambda x: subject.call(x, p, key), [x], [cotangent])
    assert_same(outputs[0], subject.call(x, p, key))
    assert_gradient(subject, vjps[0], cotangent * subject.multiplier(shape, p, key))


@each
def test_jvp_agrees(subject, key):
    x, tangent = normal(subject.shape()), normal(subject.shape(), seed=2)
    outputs, jvps = mx.jvp(lambda x: subject.call(x, 0.4, key), [x], [tangent])
    assert_same(outputs[0], subject.call(x, 0.4, key))
    assert_gradient(subject, jvps[0], tangent * subject.multiplier(x.shape, 0.4, key))


@each
def test_second_order(subject, key):
    """The gradient of ``sum(grad(sum(y**3)))`` is ``6 y multiplier**2``."""
    x = normal(subject.shape())
    first = mx.grad(lambda x: (subject.call(x, 0.4, key) ** 3).sum())
    second = mx.grad(lambda x: first(x).sum())(x)
    mask = np.array(subject.multiplier(x.shape, 0.4, key))
    y = np.array(subject.call(x, 0.4, key))
    np.testing.assert_allclose(second, 6 * y * mask**2, rtol=1e-5)


@each
@pytest.mark.parametrize("p", [1, mx.array(1.0)], ids=["number", "array"])
def test_p_1_has_zero_gradient(subject, p, key):
    x = normal(subject.shape())
    gradient = mx.grad(lambda x: subject.call(x, p, key).sum())(x)
    assert_same(gradient, mx.zeros(x.shape))


@each
def test_the_key_and_the_rate_have_zero_gradient(subject, key):
    x = normal(subject.shape())
    rate = mx.array(0.5)
    gradients = mx.grad(lambda *args: subject.call(*args).sum(), argnums=(0, 1, 2))(
        x, rate, key
    )
    assert_gradient(subject, gradients[0], subject.multiplier(x.shape, rate, key))
    assert gradients[1].item() == 0
    assert not gradients[2].any()
    for p in (0.0, 1.0):
        assert mx.grad(lambda p: subject.call(x, p, key).sum())(mx.array(p)).item() == 0


@each
def test_jvp_over_the_key_and_the_rate_is_zero(subject, key):
    x = normal(subject.shape())
    primals = [mx.array(0.5), key]
    tangents = [mx.array(1.0), mx.ones_like(key)]
    _, jvps = mx.jvp(lambda p, key: subject.call(x, p, key), primals, tangents)
    assert not jvps[0].any()


@each
def test_a_batch_of_keys(subject, key):
    x = normal(subject.shape())
    if 0 in subject.spatial_axes(x.ndim):
        pytest.skip("axis 0 is spatial")
    keys = mx.random.split(key, x.shape[0])
    gradients = mx.grad(lambda x, keys: subject.call(x, 0.5, keys).sum(), argnums=(0, 1))(
        x, keys
    )
    assert_gradient(subject, gradients[0], subject.multiplier(x.shape, 0.5, keys))
    assert not gradients[1].any()


@each
def test_grad_of_vmap_and_vmap_of_grad(subject, key):
    xs = normal((3, *subject.shape()))
    keys = mx.random.split(key, 3)

    def loss(x, key):
        return (subject.call(x, 0.5, key) ** 2).sum()

    outer = mx.grad(lambda xs: mx.vmap(loss)(xs, keys).sum())(xs)
    inner = mx.vmap(mx.grad(loss))(xs, keys)
    for i in range(3):
        expected = mx.grad(loss)(xs[i], keys[i])
        np.testing.assert_array_equal(outer[i], expected)
        np.testing.assert_array_equal(inner[i], expected)


KEYS = {
    "fold_in": lambda key, data: fold_in(key, data),
    "example_keys": lambda key, data: example_keys(key, 3, data),
    "layer": lambda key, data: chandrop.nn.Dropout(key=key)(mx.ones((3, 2))),
}


@pytest.mark.parametrize("name", KEYS)
def test_what_derives_from_a_key_has_zero_gradient_over_it(name, key):
    """Differentiated or checkpointed with a key among the arguments, it does not raise."""
    data = mx.array(5, dtype=mx.uint32)

    def total(key, data):
        return KEYS[name](key, data).astype(mx.float32).sum()

    gradients = mx.grad(total, argnums=(0, 1))(key, data)
    assert not any(gradient.any() for gradient in gradients)
    tangents = [mx.ones_like(key), mx.ones_like(data)]
    assert mx.jvp(total, [key, data], tangents)[1][0].item() == 0
    checkpointed = mx.grad(lambda x: x * mx.checkpoint(total)(key, data))
    assert checkpointed(mx.array(1.0)) == total(key, data)
