"""Times several calls in one run, block by block in turn, so that drift hits all alike."""

import gc
import random
import statistics
import time
from collections.abc import Callable

BLOCKS = 9
BLOCK_SECONDS = 0.012


def medians(
    calls: dict[str, Callable[[], object]], count: int = BLOCKS
) -> dict[str, float]:
    """Gives for each call the median over `count` blocks of its mean seconds in a block.

    Each round has another order, and each block begins untimed: a framework's first calls
    after another framework's are slower.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        call()
        repeats[name] = max(1, round(BLOCK_SECONDS / _seconds(call, 2)))
    blocks: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        for _ in range(count):
            shuffle(order)
            for name in order:
                _seconds(calls[name], 1 + repeats[name] // 2)
                blocks[name].append(_seconds(calls[name], repeats[name]))
    finally:
        gc.enable()
    return {name: statistics.median(seconds) for name, seconds in blocks.items()}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats
