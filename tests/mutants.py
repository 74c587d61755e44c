"""Breaks the source on purpose, one fault at a time: the test named for it must fail.

Run it with ``python tests/mutants.py``.

Some of these tests need a C++ compiler, as ``mx.compile`` does on the CPU.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).parents[1]
MASK = "functional/_channel_mask.py"
ARGUMENTS = "functional/_arguments.py"
MULTIPLY = "functional/_multiply.py"
LAYER = "nn/_keyed_layer.py"
FOLD_IN = "random/_fold_in.py"


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file`, `right` becomes `wrong`, and `test` must fail."""

    fault: str
    file: str
    right: str
    wrong: str
    test: str


MUTANTS = [
    Mutant(
        "the rate is off by 1 %",
        MASK,
        "numbers = mx.array([1 - rate, scale])",
        "numbers = mx.array([1 - rate * 1.01, scale])",
        "laws/test_03_mean.py::test_rate",
    ),
    Mutant(
        "an array's rate is off by 1 %",
        MASK,
        "return 1 - rate, mx.where",
        "return 1 - rate * 0.99, mx.where",
        "laws/test_03_mean.py::test_rates_per_channel",
    ),
    Mutant(
        "the scale is off by one in the last place",
        MASK,
        "scale = 0.0 if rate == 1 else 1 / (1 - rate)",
        "scale = 0.0 if rate == 1 else 1 / (1 - rate) * (1 + 2**-23)",
        "laws/test_10_oracle.py::test_mlx_nn",
    ),
    Mutant(
        "the scale is forgotten",
        MASK,
        "_draw(keep_probability, mask_shape, key) * scale",
        "_draw(keep_probability, mask_shape, key) * mx.ones_like(scale)",
        "laws/test_02_channel.py::test_constant_per_channel",
    ),
    Mutant(
        "channels are dropped with the keep probability",
        MASK,
        "return numbers[:1], numbers[1:]",
        "return 1 - numbers[:1], numbers[1:]",
        "laws/test_03_mean.py::test_rate",
    ),
    Mutant(
        "the key of a mask is differentiated",
        MASK,
        "key = mx.stop_gradient(key)",
        "pass",
        "laws/test_06_grad.py::test_the_key_and_the_rate_have_zero_gradient",
    ),
    Mutant(
        "the key of fold_in is differentiated",
        FOLD_IN,
        "key = mx.stop_gradient(key)",
        "pass",
        "laws/test_06_grad.py::test_what_derives_from_a_key_has_zero_gradient_over_it",
    ),
    Mutant(
        "the data of fold_in are differentiated",
        FOLD_IN,
        "mx.stop_gradient(data.astype(mx.uint32))",
        "data.astype(mx.uint32)",
        "laws/test_06_grad.py::test_what_derives_from_a_key_has_zero_gradient_over_it",
    ),
    Mutant(
        "a layer differentiates its key",
        LAYER,
        "mx.stop_gradient(key)",
        "key",
        "laws/test_06_grad.py::test_what_derives_from_a_key_has_zero_gradient_over_it",
    ),
    Mutant(
        "a rate is differentiated",
        ARGUMENTS,
        "mx.stop_gradient(p.astype(mx.float32))",
        "p.astype(mx.float32)",
        "laws/test_06_grad.py::test_the_key_and_the_rate_have_zero_gradient",
    ),
    Mutant(
        "all examples share the first key",
        MASK,
        "mask_shape), key)",
        "mask_shape), mx.broadcast_to(key[:1], key.shape))",
        "laws/test_09_cut.py::test_one_example_with_its_own_key",
    ),
    Mutant(
        "a batch of keys lies along the wrong axis",
        MASK,
        "out_axes=1",
        "out_axes=-1",
        "laws/test_09_cut.py::test_one_example_with_its_own_key",
    ),
    Mutant(
        "the words of the keys of a batch are swapped",
        MASK,
        "mask_shape), key)",
        "mask_shape), key[:, ::-1])",
        "laws/test_09_cut.py::test_one_example_with_its_own_key",
    ),
    Mutant(
        "an empty batch of keys is drawn from",
        MASK,
        "if key.shape[0] == 0:",
        "if False:",
        "laws/test_09_cut.py::test_an_empty_part",
    ),
    Mutant(
        "the last spatial axis is missed",
        ARGUMENTS,
        "1 if axis in axes else n",
        "1 if axis in axes[:-1] else n",
        "laws/test_02_channel.py::test_constant_per_channel",
    ),
    Mutant(
        "the channels are a spatial axis",
        "functional/_layouts.py",
        "(-3, -2))\n\n\ndef",
        "(-3, -2, -1))\n\n\ndef",
        "laws/test_02_channel.py::test_both_values_occur_in_every_channel_axis",
    ),
    Mutant(
        "a negative axis is not counted from the last",
        ARGUMENTS,
        "axis % ndim for axis in spatial_axes",
        "abs(axis) for axis in spatial_axes",
        "laws/test_02_channel.py::test_the_mask_is_what_dropout_multiplies_by",
    ),
    Mutant(
        "nan is a rate",
        ARGUMENTS,
        "if not 0 <= number <= 1:",
        "if number < 0 or number > 1:",
        "test_errors.py::test_rate_out_of_range",
    ),
    Mutant(
        "rates in an array are not clipped",
        ARGUMENTS,
        "return mx.clip(mx.stop_gradient(p.astype(mx.float32)), 0.0, 1.0)",
        "return mx.stop_gradient(p.astype(mx.float32))",
        "laws/test_02_channel.py::test_an_array_of_rates_is_clipped_and_nan_is_nan",
    ),
    Mutant(
        "a batch of keys of any length is taken",
        ARGUMENTS,
        "if key.shape[0] != shape[0]:",
        "if False:",
        "test_errors.py::test_a_batch_of_keys_that_does_not_match",
    ),
    Mutant(
        "dropped values are selected, not multiplied",
        "functional/_dropout_channels.py",
        "return multiply(x, mask)",
        "return mx.where(mask == 0, mx.zeros_like(x), multiply(x, mask))",
        "laws/test_02_channel.py::test_a_dropped_inf_or_nan_is_nan",
    ),
    Mutant(
        "the mask is repeated along the wrong axis",
        MULTIPLY,
        "mx.unflatten(mx.flatten(mx.broadcast_to(mask, shape), axis), axis, shape[axis:])",
        "mx.repeat(mask, repeats, -1).reshape(shape)",
        "laws/test_02_channel.py::test_every_way_to_multiply",
    ),
    Mutant(
        "few channels are multiplied in short runs",
        MULTIPLY,
        "_SHORT, _BEST = 32, 512",
        "_SHORT, _BEST = 0, 512",
        "laws/test_02_channel.py::test_every_way_to_multiply",
    ),
    Mutant(
        "the mask is drawn in the loop over the input",
        MASK,
        "mx.squeeze(mask.astype(dtype), 0)",
        "mask.astype(dtype)",
        "laws/test_07_compile.py::test_the_mask_is_not_drawn_in_the_loop_over_the_input",
    ),
    Mutant(
        "the repeated mask is as large as the input",
        MULTIPLY,
        "_SHARE, _FEW = 1 / 8",
        "_SHARE, _FEW = 1",
        "test_memory.py::test_few_channels",
    ),
    Mutant(
        "numbers are literals in compiled kernels",
        MASK,
        "return numbers[:1], numbers[1:]",
        "return mx.array(1 - rate), mx.array(scale)",
        "laws/test_07_compile.py::test_a_new_rate_is_no_new_kernel",
    ),
    Mutant(
        "a layer draws with its key and keeps it",
        LAYER,
        "self._key = advanced",
        "self._key = self._key",
        "test_layers.py::test_a_call_splits_the_key_as_jax_does",
    ),
    Mutant(
        "a layer draws with the subkey that it keeps",
        LAYER,
        "advanced, key = _split(self._key)",
        "advanced = key = _split(self._key)[0]",
        "test_layers.py::test_a_call_splits_the_key_as_jax_does",
    ),
    Mutant(
        "a call that fails advances the key",
        LAYER,
        "advanced, key = _split(self._key)",
        "self._key, key = _split(self._key); advanced = self._key",
        "test_errors.py::test_a_layer_checks_its_call_in_any_mode_and_keeps_its_key",
    ),
    Mutant(
        "a layer's key is a parameter",
        LAYER,
        "self._key",
        "self.key",
        "test_layers.py::test_the_key_is_state_and_not_a_parameter",
    ),
    Mutant(
        "a key from the global stream has 48 random bits",
        LAYER,
        "mx.random.randint(0, 2**16, (2, 2))",
        "mx.random.randint(0, 2**12, (2, 2))",
        "laws/test_04_independence.py::test_layers_built_from_the_global_stream",
    ),
    Mutant(
        "data is added to the key unhashed",
        FOLD_IN,
        "salted = key + hashed",
        "salted = key + words[..., None]",
        "laws/test_10_oracle.py::test_stored_keys_of_jax",
    ),
    Mutant(
        "the order of folding does not matter",
        FOLD_IN,
        "    return _draw(salted)\n",
        "    return salted\n",
        "laws/test_04_independence.py::test_the_order_of_folding_matters",
    ),
    Mutant(
        "the place of an example ignores the offset",
        "random/_example_keys.py",
        "first + mx.arange",
        "0 * first + mx.arange",
        "laws/test_09_cut.py::test_any_cut",
    ),
]


def passes(test: str, mutant: Mutant | None = None) -> bool:
    """Says whether the test passes on a copy of the source, which the mutant has broken."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in ("src", "tests", "pyproject.toml", "conftest.py"):
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, root / name)
        if mutant:
            path = root / "src" / "chandrop" / mutant.file
            text = path.read_text()
            if mutant.right not in text:
                sys.exit(f"{mutant.file} no longer has {mutant.right!r}: mend the mutant.")
            path.write_text(text.replace(mutant.right, mutant.wrong))
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-qx", f"tests/{test}"],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root / "src")},
            capture_output=True,
            text=True,
        )
    if run.returncode not in (0, 1, -8):
        sys.exit(run.stdout + run.stderr)
    return run.returncode == 0


def main() -> None:
    survivors = 0
    for test in sorted({mutant.test for mutant in MUTANTS}):
        if not passes(test):
            sys.exit(f"{test} fails on the source as it is.")
    for mutant in MUTANTS:
        alive = passes(mutant.test, mutant)
        survivors += alive
        print(f"{'SURVIVED' if alive else 'caught':9} {mutant.fault}  ({mutant.test})")
    print(f"{len(MUTANTS) - survivors} passed, {survivors} failed")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
