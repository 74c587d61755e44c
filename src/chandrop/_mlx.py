"""MLX's own transforms, which `chandrop.nn` wraps for everyone else.

Our own code maps, checkpoints and compiles functions that hold no layers, or that hand the
keys on themselves, and needs no wrapper.
"""

import mlx.core as mx

vmap, checkpoint, compile = mx.vmap, mx.checkpoint, mx.compile
export_function, exporter = mx.export_function, mx.exporter
