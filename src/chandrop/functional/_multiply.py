import mlx.core as mx

# MLX's CPU loop over a broadcast mask runs along the axes after the last spatial one. It
# is four times slower where they have few elements, and needs no help from 64 on; past
# 1024 the repeated mask itself costs more than it saves.
_SHORT, _LONG = 64, 1024
# The repeated mask stays small beside the input.
_SHARE = 8


def multiply(x: mx.array, mask: mx.array) -> mx.array:
    """Multiplies by a mask that has 1 at the spatial axes, fast also for few channels."""
    axis = x.ndim - 1
    run = 1
    while axis >= 0 and mask.shape[axis] == x.shape[axis]:
        run *= x.shape[axis]
        axis -= 1
    if x.size == 0 or axis < 0 or not 1 < run < _SHORT:
        return x * mask
    length = x.shape[axis]
    most = min(length, _LONG // run, x.size // (_SHARE * mask.size))
    repeats = next((n for n in range(most, 1, -1) if length % n == 0), 1)
    if repeats == 1:
        return x * mask
    repeated = mx.contiguous(
        mx.broadcast_to(mask, (*mask.shape[:axis], repeats, *mask.shape[axis + 1 :]))
    )
    if repeats == length:
        return x * repeated
    blocks = mx.unflatten(x, axis, (length // repeats, repeats))
    return mx.flatten(blocks * mx.expand_dims(repeated, axis), axis, axis + 1)
