"""What `test_distributed` runs on every rank: plain calls of layers, whose masks it saves.

Run it with ``python tests/ranks.py FOLDER``, or by ``mlx.launch``.
"""

import sys

import mlx.core as mx
import mlx.nn as nn

from chandrop.nn import Dropout, Dropout2d, check_step, rekey
from chandrop.random import example_keys, fold_in

BATCH, STEPS = 8, 2


def is_told(model: nn.Module, x: mx.array) -> bool:
    """Whether `check_step` says that ranks hold the same keys, and how to mend it."""
    try:
        check_step(model, lambda x: model(x), x)
    except ValueError as error:
        return 'same key on several ranks: "layers.0", "layers.2".' in str(error) and (
            "chandrop.nn.rekey(model, chandrop.random.fold_in(key, rank))" in str(error)
        )
    return False


def main() -> None:
    ranks = mx.distributed.init()
    rank, n = ranks.rank(), BATCH // ranks.size()
    # Alike on every rank, so that all start from the same weights.
    mx.random.seed(0)
    model = nn.Sequential(Dropout(0.5), nn.Identity(), Dropout2d(0.5))
    key, x = mx.random.key(1), mx.ones((n, 3, 3, 16))
    outputs = {"seeded_alike": mx.stack([model(x) for _ in range(STEPS)])}
    outputs["is_told"] = mx.array(is_told(model, x))

    rekey(model, fold_in(key, rank))
    outputs["is_told_in_vain"] = mx.array(is_told(model, x))
    outputs["own_keys"] = mx.stack([model(x) for _ in range(STEPS)])

    def by_example(x: mx.array) -> mx.array:
        rekey(model, example_keys(key, n, offset=rank * n))
        return model(x)

    check_step(model, by_example, x)
    parts = []
    for step in range(STEPS):
        rekey(model, example_keys(fold_in(key, step), n, offset=rank * n))
        parts.append(model(x))
    outputs["as_one_process"] = mx.stack(parts)
    mx.save_safetensors(f"{sys.argv[1]}/{rank}.safetensors", outputs)


if __name__ == "__main__":
    main()
