"""Random inputs, also as views of other arrays, and how results are compared."""

import mlx.core as mx
import numpy as np

# The relative error that a product, or a sum of a few, may have.
TOLERANCE = {mx.float32: 3e-6, mx.float16: 4e-3, mx.bfloat16: 3e-2, mx.complex64: 3e-6}


def random_values(rng, shape, *, special=False):
    """Normal numbers; at times one that is not finite."""
    values = rng.normal(size=shape).astype(np.float32)
    if special and values.size:
        values.flat[int(rng.integers(values.size))] = rng.choice(
            [np.inf, -np.inf, np.nan, 0]
        )
    return values


def random_view(rng, values, dtype):
    """An array of these values, which may be a view of another one."""
    way = rng.choice(["plain", "transposed", "every second", "reversed", "part"])
    if values.ndim == 0 or way == "plain":
        return _array(values, dtype)
    if way == "transposed":
        order = rng.permutation(values.ndim)
        turned = _array(np.ascontiguousarray(values.transpose(order)), dtype)
        return turned.transpose(*np.argsort(order).tolist())
    axis = int(rng.integers(values.ndim))
    inner = [slice(None)] * values.ndim
    if way == "every second":
        inner[axis] = slice(None, None, 2)
        return _array(np.repeat(values, 2, axis), dtype)[tuple(inner)]
    if way == "reversed":
        inner[axis] = slice(None, None, -1)
        return _array(np.flip(values, axis), dtype)[tuple(inner)]
    inner[axis] = slice(1, 1 + values.shape[axis])
    around = [(int(axis == a),) * 2 for a in range(values.ndim)]
    return _array(np.pad(values, around), dtype)[tuple(inner)]


def _array(values, dtype):
    array = mx.array(values.copy())
    if dtype == mx.complex64:
        return array + 1j * array[..., ::-1] if array.ndim else array * (1 + 1j)
    return array.astype(dtype)


def rounded(values, dtype):
    """NumPy's numbers as they are in another dtype; NumPy has no bfloat16."""
    if dtype == mx.complex64:
        return values.astype(np.complex64)
    with np.errstate(over="ignore"):
        single = mx.array(np.ascontiguousarray(values, np.float32)).reshape(values.shape)
    return np.array(single.astype(dtype).astype(mx.float32))


def as_numpy(array):
    return np.array(array if array.dtype == mx.complex64 else array.astype(mx.float32))


def assert_equal(received, expected, *, exactly, dtype):
    """Compares, bit for bit or with the tolerance of a dtype."""
    assert received.dtype == dtype, f"{received.dtype}, expected {dtype}"
    assert received.shape == expected.shape, f"{received.shape}, expected {expected.shape}"
    one = as_numpy(received)
    if exactly:
        np.testing.assert_array_equal(one, expected)
    else:
        tolerance = TOLERANCE[dtype]
        largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
        np.testing.assert_allclose(
            one, expected, rtol=20 * tolerance, atol=tolerance * (1 + largest)
        )
