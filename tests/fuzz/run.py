"""Runs random programs: ``python -m fuzz.run`` in the folder of the tests.

A failure is printed with the line that repeats it. The exit status is then 1.
"""

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from fuzz.programs import KINDS, run_program
from fuzz.worker import Worker

# One program in so many may compile: each kernel takes a second of g++, and a model has
# many.
COMPILED = {"composition": 20, "model": 100}


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compositions", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--timeout", type=int, default=120, help="seconds for a program")
    parser.add_argument("--first", action="store_true", help="stop at the first failure")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "SEED"), help=" or ".join(KINDS))
    return parser.parse_args()


def compiles(kind, seed, arguments):
    return seed % COMPILED.get(kind, 1) == 0 and not arguments.no_compile


def run_one(arguments):
    """Runs one program in this process, where a debugger can follow."""
    kind, seed = arguments.one[0], int(arguments.one[1])
    outcome = run_program(kind, seed, compiles=compiles(kind, seed, arguments))
    print(outcome.failure or outcome.limit or "passed")
    return outcome.failure is None


def shown(ran):
    return f"{ran['composition']} compositions and {ran['model']} models"


def mixed(counts, first):
    """Gives so many programs of each kind, by kind and seed, evenly mixed."""
    places = [(i / n, kind, first + i) for kind, n in counts.items() for i in range(n)]
    return [(kind, seed) for _, kind, seed in sorted(places)]


def run_many(arguments):
    """Runs all programs in worker processes, and prints what became of them."""
    counts = {"composition": arguments.compositions, "model": arguments.models}
    programs = mixed(counts, arguments.seed)
    workers = [Worker(arguments.timeout) for _ in range(arguments.jobs)]
    idle = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(program):
        kind, seed = program
        worker = idle.get()
        try:
            return worker.run(kind, seed, compiles=compiles(kind, seed, arguments))
        finally:
            idle.put(worker)

    limits, failures, ran = Counter(), 0, Counter()
    begin = time.monotonic()
    flag = " --no-compile" if arguments.no_compile else ""
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for (kind, seed), outcome in zip(programs, pool.map(run, programs), strict=True):
            ran[kind] += 1
            if outcome.limit:
                limits[outcome.limit] += 1
            if outcome.failure:
                failures += 1
                print(f'make fuzz FUZZ="--one {kind} {seed}{flag}"\n{outcome.failure}\n')
                if arguments.first:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
            if sum(ran.values()) % 500 == 0:
                print(f"{shown(ran)}: {failures} failed", file=sys.stderr, flush=True)
    for worker in workers:
        worker.close()
    seconds = time.monotonic() - begin
    print(f"{shown(ran)} from seed {arguments.seed}, in {seconds:.0f} s: {failures} failed")
    for limit, count in limits.most_common():
        print(f"{count:6} at a limit of MLX: {limit}")
    return failures == 0


if __name__ == "__main__":
    arguments = parse()
    sys.exit(not (run_one if arguments.one else run_many)(arguments))
