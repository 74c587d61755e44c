"""Measures the time and memory of calls."""

import gc
import random
import statistics
import time
from collections.abc import Callable

import mlx.core as mx

BLOCKS = 9
BLOCK_SECONDS = 0.012

Call = Callable[[], object]


def medians(
    calls: dict[str, Call], count: int = BLOCKS, long: bool = False
) -> dict[str, float]:
    """Returns for each call the median over `count` blocks of its mean seconds in a block.

    The calls take turns, so that drift hits all of them alike. Each round has another
    order, and each block begins untimed: a framework's first calls after another
    framework's are slower.

    Args:
        calls: the calls by name.
        count: how many blocks there are of each.
        long: whether a block is one call without an untimed one before it. Where a call
            takes about a second, more rounds tell more than untimed calls.
    """
    repeats = dict.fromkeys(calls, 1)
    for name, call in calls.items():
        call()
        if not long:
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
                if not long:
                    _seconds(calls[name], 1 + repeats[name] // 2)
                blocks[name].append(_seconds(calls[name], repeats[name]))
    finally:
        gc.enable()
    return {name: statistics.median(seconds) for name, seconds in blocks.items()}


def _seconds(call: Call, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def peak_bytes(call: Call) -> int:
    """Returns what a call holds at most, beside what is there before it."""
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    call()
    return mx.get_peak_memory() - before


def peak_megabytes(call: Call) -> float:
    return peak_bytes(call) / 1e6
