"""Puts faults into copies of the source: how many random programs until one is found?

Run it with ``python -m fuzz.faults`` in the folder of the tests.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src" / "chandrop"


@dataclass(frozen=True)
class Fault:
    """In `file`, `right` becomes `wrong`."""

    text: str
    file: str
    right: str
    wrong: str


FAULTS = [
    Fault(
        "the scale is off by one in the last place",
        "functional/_dropout_channels.py",
        "return (1 / (1 - p),)",
        "return (1 / (1 - p) * (1 + 2**-23),)",
    ),
    Fault(
        "one key for all examples alike forgets that each has a rate of its own",
        "functional/_channels.py",
        "if key.shape[0] == 1 and not by_example:",
        "if key.shape[0] == 1:",
    ),
    Fault(
        "the key of a draw is differentiated",
        "functional/_channels.py",
        "key = mx.stop_gradient(key)",
        "pass",
    ),
    Fault(
        "an array of rates of 1 gives nan",
        "functional/_coefficients.py",
        "[mx.where(rate == 1, 0.0, number) for number in formula(rate, mx)]",
        "list(formula(rate, mx))",
    ),
    Fault(
        "a large array is cut into parts that do not cover it",
        "_affine.py",
        "if shape[axis] % n == 0",
        "if shape[axis] % n < 2",
    ),
    Fault(
        "attention draws each weight alone, whatever shares one draw",
        "functional/_dropout_attention.py",
        "weights = dropout_channels(weights, p, key, spatial_axes)",
        "weights = dropout_channels(weights, p, key)",
    ),
    Fault(
        "blocks of three are blocks of two",
        "functional/_drop_block.py",
        "while width < size:",
        "while width < size - size % 2:",
    ),
    Fault(
        "the members of nested vmaps are counted from the inside",
        "nn/tools/_transforms.py",
        "members=(*call_context.get().members, index)",
        "members=(index, *call_context.get().members)",
    ),
    Fault(
        "the index of a member is no input of a checkpoint",
        "nn/tools/_checkpoint.py",
        "members=tuple(members), new=[]",
        "new=[]",
    ),
    Fault(
        "what functional_call has put in is no input of a checkpoint",
        "nn/tools/_checkpoint.py",
        "snapshot.restore(arrays)",
        "snapshot.restore()",
    ),
    Fault(
        "a layer that keeps all advances its key",
        "nn/layers/_keyed_layer.py",
        "if self._keeps_all(x):",
        "if False:",
    ),
    Fault(
        "a layer keeps the weights as a call has dropped them",
        "nn/layers/_weight_dropout.py",
        "self[self._name] = whole",
        "pass",
    ),
    Fault(
        "one key for all examples alike is a batch of keys to a model that draws itself",
        "nn/layers/_key_stream.py",
        "return key[0] if key.shape == (1, 2) else key",
        "return key",
    ),
    Fault(
        "a shared layer has the largest of its paths",
        "nn/tools/_layers_by_path.py",
        "sorted(model.named_modules(), key=lambda item: item[0])",
        "sorted(model.named_modules(), key=lambda item: item[0], reverse=True)",
    ),
    Fault(
        "the part of a batch is taken for its beginning",
        "random/_example_keys.py",
        "first + mx.arange(n, dtype=mx.uint32)",
        "0 * first + mx.arange(n, dtype=mx.uint32)",
    ),
    Fault(
        "the tokens that an example keeps depend on how many there are",
        "thin/_patch_dropout.py",
        "example_keys(key, len(x)) if key.ndim == 1",
        "mx.random.split(key, len(x)) if key.ndim == 1",
    ),
    Fault(
        "a thin chain leaves out the scale of channels that it keeps",
        "thin/_thin_sequential.py",
        "x = x * kept_scale(kept, channels, x.dtype)",
        "x = x * 1",
    ),
]


def programs_until(fault):
    """How many programs it takes to find a fault, and the first that fails."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "chandrop"
        shutil.copytree(SOURCE, copy)
        path = copy / fault.file
        source = path.read_text()
        if source.count(fault.right) < 1:
            sys.exit(f"{fault.file} no longer has {fault.right!r}: mend the fault.")
        path.write_text(source.replace(fault.right, fault.wrong))
        run = subprocess.run(
            [sys.executable, "-m", "fuzz.run", "--first", "--no-compile"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(TESTS)])},
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode == 0:
        return None, ""
    repeated = re.search(r'FUZZ="--one (\w+ \d+)', run.stdout)
    counts = re.search(r"(\d+) compositions and (\d+) models", run.stdout)
    if not repeated or not counts:
        sys.exit(run.stdout + run.stderr)
    return sum(map(int, counts.groups())), repeated[1]


def main():
    survivors = 0
    for fault in FAULTS:
        programs, first = programs_until(fault)
        survivors += programs is None
        found = "NOT FOUND" if programs is None else f"{programs:5}: {first:17}"
        print(f"{found} {fault.text}", flush=True)
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
