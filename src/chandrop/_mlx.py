"""What MLX's transforms are and need.

They are MLX's own, which `chandrop.nn` wraps for everyone else.

Our own code maps, checkpoints and compiles functions that hold no layers, or that hand the
keys on themselves, and needs no wrapper.
"""

import mlx.core as mx

vmap, checkpoint, compile = mx.vmap, mx.checkpoint, mx.compile
export_function, exporter = mx.export_function, mx.exporter


def batched_as(weight: mx.array, x: mx.array) -> mx.array:
    """Returns `x`, but a batch for every ``mx.vmap`` for which the weight is one.

    Of a convolution with groups, and of a batch of convolutions, MLX takes wrong groups if
    the weight alone is a batch, in silence.
    """
    # Not 0 * weight, which may be nan.
    first = weight.flatten()[0]
    return x + mx.where(first == first, 0, 0).astype(x.dtype)
