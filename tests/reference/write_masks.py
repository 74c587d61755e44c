"""Writes masks.json: what JAX draws, to be compared where JAX is not installed.

Run it with ``python tests/reference/write_masks.py``.

JAX draws uniforms of 23 bits and MLX of 32, so about 5 of 2 * 10**8 draws differ. The
small masks stored here are ones in which none does.
"""

import json
import pathlib

import jax

jax.config.update("jax_threefry_partitionable", False)

MASKS = [
    {"seed": 0, "p": 0.5, "shape": [4, 3, 5, 8], "spatial_axes": [1, 2]},
    {"seed": 1, "p": 0.1, "shape": [2, 7, 7, 33], "spatial_axes": [1, 2]},
    {"seed": 2, "p": 0.9, "shape": [3, 2, 3, 4, 10], "spatial_axes": [1, 2, 3]},
    {"seed": 3, "p": 0.3, "shape": [5, 9, 16], "spatial_axes": [1]},
    {"seed": 4, "p": 0.25, "shape": [6, 7], "spatial_axes": []},
    {"seed": 5, "p": 0.2, "shape": [40, 3, 3], "spatial_axes": [1, 2]},
    {"seed": 2**32 + 6, "p": 0.75, "shape": [2, 5, 3, 4], "spatial_axes": [2, 3]},
    {"seed": 2**63 + 7, "p": 0.0, "shape": [3, 2, 9], "spatial_axes": [1]},
    {"seed": 8, "p": 1.0, "shape": [3, 2, 9], "spatial_axes": [1]},
    {"seed": 9, "p": 0.5, "shape": [1, 1, 1, 1], "spatial_axes": [1, 2]},
]
FOLDED = [(0, 0), (0, 1), (1, 0), (7, 2**31), (2**40 + 3, 2**32 - 1), (5, 123456789)]


def key(seed):
    """The key of mx.random.key, for seeds of 64 bits too."""
    return jax.numpy.array([seed >> 32, seed & 0xFFFFFFFF], dtype=jax.numpy.uint32)


def kept(seed, p, shape, spatial_axes):
    mask_shape = [1 if axis in spatial_axes else n for axis, n in enumerate(shape)]
    bits = jax.random.bernoulli(key(seed), 1 - p, mask_shape)
    return "".join("01"[int(bit)] for bit in bits.ravel())


def fold_in(key, data):
    def draw(key):
        return jax.random.split(key, 1)[0]

    salt = jax.numpy.array([0x9E3779B9, data], dtype=jax.numpy.uint32)
    return draw(key + draw(salt))


if __name__ == "__main__":
    reference = {
        "jax": jax.__version__,
        "masks": [{**case, "kept": kept(**case)} for case in MASKS],
        "fold_in": [
            {"seed": seed, "data": data, "key": fold_in(key(seed), data).tolist()}
            for seed, data in FOLDED
        ],
    }
    path = pathlib.Path(__file__).with_name("masks.json")
    path.write_text(json.dumps(reference, indent=1) + "\n")
