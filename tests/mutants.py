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
CHANNELS = "functional/_channels.py"
COEFFICIENTS = "functional/_coefficients.py"
DROPOUT = "functional/_dropout_channels.py"
NOISE = "functional/_noise.py"
GROUPS = "functional/_groups.py"
ALPHA = "functional/_alpha_dropout_channels.py"
GAUSSIAN = "functional/_gaussian_dropout_channels.py"
CONCRETE = "functional/_concrete_dropout_channels.py"
REGULARIZER = "functional/_concrete_regularizer.py"
PATH = "functional/_drop_path.py"
BLOCK = "functional/_drop_block.py"
KEEP = "functional/_keep_channels.py"
THIN = "functional/_thin_dropout_channels.py"
THIN_PATH = "functional/_thin_drop_path.py"
CHAIN = "nn/_thin_sequential.py"
PARTS = "nn/_on_channels.py"
ARGUMENTS = "functional/_arguments.py"
AFFINE = "functional/_affine.py"
LAYER = "nn/_keyed_layer.py"
FOLD_IN = "random/_fold_in.py"
MODEL_KEYS = "nn/_model_keys.py"
PATHS = "nn/_layers_by_path.py"
SNAPSHOT = "nn/_snapshot.py"
CALL = "nn/_functional_call.py"
CHECKPOINT = "nn/_checkpoint.py"
CONVERT = "nn/_convert.py"
WORDS = "nn/_words_of_others.py"
RECOMPUTATION = "nn/_recomputation.py"
SURROUNDINGS = "nn/_surroundings.py"
TRANSFORMS = "nn/_transforms.py"
IN_THE_CALL = "nn/_layers_of_the_call.py"
CHECK_STEP = "nn/_check_step.py"
STACK = "nn/_stack_parameters.py"
SAMPLES = "random/_samples.py"
BALANCED = "random/_balanced_keys.py"
SUBNETWORKS = "nn/_subnetworks.py"
SAMPLE = "uncertainty/_sample.py"
PREDICT = "uncertainty/_predict.py"
OVER_KEYS = "uncertainty/_over_keys.py"
PURITY = "uncertainty/_purity.py"
CLASSIFY = "uncertainty/_classify.py"
REGRESS = "uncertainty/_regress.py"
RUNNING = "uncertainty/_running.py"
CHECKS = "uncertainty/_checks.py"
CALIBRATION = "uncertainty/_calibration.py"
SCORES = "uncertainty/_scores.py"
RISK = "uncertainty/_risk_coverage.py"
SUMS = "uncertainty/_sums.py"


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
        DROPOUT,
        "return 1 - p, 1 / (1 - p)",
        "return 1 - p * 1.01, 1 / (1 - p)",
        "laws/test_03_mean.py::test_rate",
    ),
    Mutant(
        "an array's rate is off by 1 %",
        COEFFICIENTS,
        "for number in formula(rate, mx)",
        "for number in formula(rate * 0.99, mx)",
        "laws/test_03_mean.py::test_rates_per_channel",
    ),
    Mutant(
        "the scale is off by one in the last place",
        DROPOUT,
        "1 / (1 - p)",
        "1 / (1 - p) * (1 + 2**-23)",
        "laws/test_10_oracle.py::test_mlx_nn",
    ),
    Mutant(
        "the scale is forgotten",
        DROPOUT,
        "draw(bernoulli, keep_probability) * scale",
        "draw(bernoulli, keep_probability) * mx.ones_like(scale)",
        "laws/test_02_channel.py::test_constant_per_channel",
    ),
    Mutant(
        "channels are dropped with the keep probability",
        DROPOUT,
        "draw(bernoulli, keep_probability)",
        "draw(bernoulli, 1 - keep_probability)",
        "laws/test_03_mean.py::test_rate",
    ),
    Mutant(
        "the key of a mask is differentiated",
        CHANNELS,
        "self._key = mx.stop_gradient(key)",
        "self._key = key",
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
        CHANNELS,
        "mx.broadcast_to(key, (shape[0], key.shape[1]))",
        "mx.broadcast_to(key[:1], (shape[0], key.shape[1]))",
        "laws/test_09_cut.py::test_one_example_with_its_own_key",
    ),
    Mutant(
        "a batch of keys lies along the wrong axis",
        CHANNELS,
        "out_axes=1",
        "out_axes=-1",
        "laws/test_09_cut.py::test_one_example_with_its_own_key",
    ),
    Mutant(
        "the words of the keys of a batch are swapped",
        CHANNELS,
        "return each(mx.broadcast_to(key,",
        "return each(mx.broadcast_to(key[:, ::-1],",
        "laws/test_09_cut.py::test_one_example_with_its_own_key",
    ),
    Mutant(
        "an empty batch of keys is drawn from",
        CHANNELS,
        "if shape[0] == 0:",
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
        "(-3, -2), groups",
        "(-3, -2, -1), groups",
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
        "if key.shape[0] not in (1, shape[0]):",
        "if False:",
        "test_errors.py::test_a_batch_of_keys_that_does_not_match",
    ),
    Mutant(
        "dropped values are selected, not multiplied",
        AFFINE,
        "y = _by_channel(mx.multiply, x, multiplier)",
        "y = mx.where(multiplier == 0, mx.zeros_like(x), x * multiplier)",
        "laws/test_02_channel.py::test_a_dropped_inf_or_nan_is_nan",
    ),
    Mutant(
        "the mask is repeated along the wrong axis",
        AFFINE,
        "mx.unflatten(mx.flatten(mx.broadcast_to(mask, shape), axis), axis, shape[axis:])",
        "mx.repeat(mask, repeats, -1).reshape(shape)",
        "laws/test_02_channel.py::test_every_way_to_multiply",
    ),
    Mutant(
        "few channels are multiplied in short runs",
        AFFINE,
        "_SHORT, _BEST = 32, 512",
        "_SHORT, _BEST = 0, 512",
        "laws/test_02_channel.py::test_every_way_to_multiply",
    ),
    Mutant(
        "the mask is drawn in the loop over the input",
        CHANNELS,
        "mx.squeeze(numbers.astype(dtype), 0)",
        "numbers.astype(dtype)",
        "laws/test_07_compile.py::test_the_mask_is_not_drawn_in_the_loop_over_the_input",
    ),
    Mutant(
        "the repeated mask is as large as the input",
        AFFINE,
        "_SHARE, _FEW = 1 / 8",
        "_SHARE, _FEW = 1",
        "test_memory.py::test_few_channels",
    ),
    Mutant(
        "numbers are literals in compiled kernels",
        COEFFICIENTS,
        "mx.split(array, len(numbers))",
        "[mx.array(number) for number in numbers]",
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
        "advanced, key = _split(own)",
        "advanced = key = _split(self._key)[0]",
        "test_layers.py::test_a_call_splits_the_key_as_jax_does",
    ),
    Mutant(
        "a call that fails advances the key",
        LAYER,
        "advanced, key = _split(own)",
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
        "salted = without_place(key) + hashed",
        "salted = without_place(key) + words[..., None]",
        "laws/test_10_oracle.py::test_stored_keys_of_jax",
    ),
    Mutant(
        "the order of folding does not matter",
        FOLD_IN,
        "    return with_place_of(key, _draw(salted))\n",
        "    return with_place_of(key, salted)\n",
        "laws/test_04_independence.py::test_the_order_of_folding_matters",
    ),
    Mutant(
        "the place of an example ignores the offset",
        "random/_example_keys.py",
        "first + mx.arange",
        "0 * first + mx.arange",
        "laws/test_09_cut.py::test_any_cut",
    ),
    Mutant(
        "a layer's key depends on its place among the layers",
        MODEL_KEYS,
        "[crc32(path.encode()) for path in layers]",
        "list(range(len(layers)))",
        "test_model_keys.py::test_other_layers_may_come_and_go",
    ),
    Mutant(
        "the keys of a batch are dealt out along the wrong axis",
        MODEL_KEYS,
        ".reshape(-1, *(1,) * (key.ndim - 1))",
        "",
        "test_model_keys.py::test_a_batch_of_keys",
    ),
    Mutant(
        "some keys are set although one is wrong",
        MODEL_KEYS,
        """    for path, key in keys.items():
        try:
""",
        """    for path, key in keys.items():
        layers[path]._key = key
        try:
""",
        "test_model_keys.py::test_nothing_is_set_if_one_key_is_wrong",
    ),
    Mutant(
        "a part of the keys is set in silence",
        MODEL_KEYS,
        "if strict and missing:",
        "if False:",
        "test_model_keys.py::test_a_part_of_the_keys",
    ),
    Mutant(
        "no part of the keys can be set",
        MODEL_KEYS,
        "if strict and missing:",
        "if missing:",
        "test_model_keys.py::test_a_part_of_the_keys",
    ),
    Mutant(
        "a shared layer has the largest of its paths",
        PATHS,
        "sorted(named, key=lambda item: item[0])",
        "sorted(named, key=lambda item: item[0], reverse=True)",
        "laws/test_whole_models.py::test_10_oracle",
    ),
    Mutant(
        "a layer in a tuple is left alone",
        PATHS,
        "id(hidden) not in found",
        "False",
        "test_model_keys.py::test_a_layer_where_mlx_does_not_look",
    ),
    Mutant(
        "modes are not restored",
        SNAPSHOT,
        "own.update(_with_own_sets(attributes))",
        "own.update(_with_own_sets(attributes) | {'_training': True})",
        "test_functional_call.py::test_all_is_restored",
    ),
    Mutant(
        "what a list holds is not restored",
        SNAPSHOT,
        "container[:] = contents",
        "pass",
        "test_functional_call.py::test_what_refers_to_a_part_of_the_model_sees_it_restored",
    ),
    Mutant(
        "arrays in tuples are forgotten",
        SNAPSHOT,
        "isinstance(value, tuple):",
        "False:",
        "test_checkpoint.py::test_gradients_reach_all_that_the_module_holds",
    ),
    Mutant(
        "what is frozen in a call stays frozen",
        SNAPSHOT,
        "copied[name] = value.copy()",
        "pass",
        "test_functional_call.py::test_what_is_frozen_in_the_call_is_not_frozen_after_it",
    ),
    Mutant(
        "a call changes the model's arrays in place",
        CALL,
        "before.restore_copies()",
        "pass",
        "test_functional_call.py::test_arrays_that_are_changed_in_place_are_restored",
    ),
    Mutant(
        "a call changes the given parameters in place",
        CALL,
        "tree_map(copy.copy, parameters)",
        "parameters",
        "test_functional_call.py::test_arrays_that_are_changed_in_place_are_restored",
    ),
    Mutant(
        "what a model returns is restored with it",
        CALL,
        "with_own_containers(model(*args, **kwargs))",
        "model(*args, **kwargs)",
        "test_functional_call.py::test_what_the_model_returns_is_not_restored_with_it",
    ),
    Mutant(
        "layers that are not found draw with their own keys",
        "nn/_layers_of_the_call.py",
        "if id(layer) not in paths:",
        "if False:",
        "test_functional_call.py::test_layers_that_are_not_found_cannot_draw",
    ),
    Mutant(
        "nothing is restored if the call raises",
        SNAPSHOT,
        "            yield before\n        finally:\n",
        "            yield before\n        except ZeroDivisionError:\n",
        "test_functional_call.py::test_all_is_restored_if_the_call_raises",
    ),
    Mutant(
        "dropout=True turns BatchNorm on too",
        CALL,
        "    for path, layer in layers.items():\n        layer.train(",
        "    model.train(dropout)\n    for path, layer in layers.items():\n"
        "        layer.train(",
        "test_functional_call.py::test_batch_norm_stays_in_eval_mode",
    ),
    Mutant(
        "no key is no error",
        CALL,
        "elif key is None and layer._would_drop():",
        "elif False:",
        "test_functional_call.py::test_no_key_where_a_layer_would_drop",
    ),
    Mutant(
        "the state is that before the call",
        CALL,
        "(output, _state(model, own_parameters))",
        "(output, own_parameters)",
        "test_functional_call.py::test_the_state_that_the_call_leaves",
    ),
    Mutant(
        "the recomputation sees the model as it is then",
        RECOMPUTATION,
        "                    snapshot.restore(arrays)",
        "                    snapshot.now().restore(arrays)",
        "test_checkpoint.py::test_a_loss_that_is_differentiated_later",
    ),
    Mutant(
        "the recomputation leaves its keys in the model",
        RECOMPUTATION,
        "for snapshot in reversed(held):",
        "for snapshot in ():",
        "test_checkpoint.py::test_in_functional_call_on_a_model_in_eval_mode",
    ),
    Mutant(
        "a converted layer forgets its mode",
        CONVERT,
        "    layer.train(training)\n",
        "",
        "test_convert.py::test_there_and_back",
    ),
    Mutant(
        "a converted layer's rate is off in the last bit",
        CONVERT,
        "return written if 1 - written == kept else 1 - kept",
        "return written",
        "test_convert.py::test_rates_are_kept_to_the_last_bit",
    ),
    Mutant(
        "a class in the place of where is called",
        CONVERT,
        "if isinstance(where, type):",
        "if False:",
        "test_convert.py::test_a_class_in_the_place_of_where",
    ),
    Mutant(
        "layers of other classes are left in silence",
        CONVERT,
        "    if left:\n",
        "    if False:\n",
        "test_convert.py::test_what_inherits_is_named",
    ),
    Mutant(
        "convert names layers that where did not choose",
        CONVERT,
        "in chosen.items() if not is_convertible",
        "in layers.items() if not is_convertible",
        "test_convert.py::test_what_inherits_is_named_if_where_chose_it",
    ),
    Mutant(
        "a model without dropout layers is left in silence",
        CONVERT,
        "elif not chosen and",
        "elif False and",
        "test_convert.py::test_a_model_without_dropout_layers",
    ),
    Mutant(
        "convert warns of a model whose layers are ours",
        CONVERT,
        "not chosen and not _has_keyed_layers(model)",
        "not chosen",
        "test_convert.py::test_no_warning_where_the_dropout_layers_are_ours",
    ),
    Mutant(
        "a frozen mask is not found",
        CHECK_STEP,
        "        and uncompiled.keys[path] != calls[0].keys[path]",
        "        and False",
        "test_check_step.py::test_the_frozen_mask",
    ),
    Mutant(
        "a layer that the step does not call is reported",
        CHECK_STEP,
        "        and uncompiled.keys[path] != calls[0].keys[path]",
        "",
        "test_check_step.py::test_layers_that_need_not_advance",
    ),
    Mutant(
        "a copy keeps the key",
        LAYER,
        "copied._key = key_from_global_stream()",
        "pass",
        "test_check_step.py::test_copies_have_keys_of_their_own",
    ),
    Mutant(
        "a copy is frozen with its original",
        LAYER,
        "set(value) if isinstance(value, set) else value",
        "value",
        "test_check_step.py::test_a_copy_of_a_layer",
    ),
    Mutant(
        "another name of the rate is set in silence",
        LAYER,
        "elif name in WORDS_FOR_RATE and not declares(type(self), name):",
        "elif False:",
        "test_errors.py::test_other_names_of_the_rate_cannot_be_set",
    ),
    Mutant(
        "a subclass cannot define another name of the rate",
        LAYER,
        " and not declares(type(self), name):",
        ":",
        "test_errors.py::test_a_subclass_may_define_other_names_of_the_rate",
    ),
    Mutant(
        "an annotation defines no attribute",
        WORDS,
        "name in inspect.get_annotations(base) for",
        "False for",
        "test_errors.py::test_a_subclass_may_define_other_names_of_the_rate",
    ),
    Mutant(
        "a wrong keyword is said of a private class",
        LAYER,
        "        if kwargs or len(args) > 1:\n",
        "        if False:\n",
        "test_errors.py::test_words_of_other_libraries",
    ),
    Mutant(
        "a subclass that takes any keyword is refused",
        WORDS,
        "any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values())",
        "False",
        "test_errors.py::test_a_subclass_may_take_them",
    ),
    Mutant(
        "a keyword is named that the class does not take",
        WORDS,
        "if ours in taken:",
        "if ours:",
        "test_errors.py::test_a_subclass_may_take_them",
    ),
    Mutant(
        "a key in the place of the rate is a rate",
        ARGUMENTS,
        "p.dtype == mx.uint32",
        "False",
        "test_errors.py::test_a_key_in_the_place_of_the_rate",
    ),
    Mutant(
        "a key in the place of a fixed rate is called an array",
        KEEP,
        "        check_is_no_key(p)\n",
        "",
        "test_errors.py::test_a_key_in_the_place_of_a_fixed_rate",
    ),
    Mutant(
        "all examples split the first key",
        LAYER,
        "(without_place(key))\n",
        "(mx.broadcast_to(without_place(key)[:1], (len(key), 2)))\n",
        "laws/test_whole_models.py::test_09_cut",
    ),
    Mutant(
        "members that differ are stacked",
        STACK,
        "if expected != received:",
        "if False:",
        "test_stack_parameters.py::test_models_that_differ",
    ),
    Mutant(
        "a balanced multiple is even",
        SAMPLES,
        "(2 * order + 1) * in_order",
        "2 * order * in_order",
        "test_balanced_keys.py::test_every_channel_is_dropped_equally_often",
    ),
    Mutant(
        "a balanced order is one of two",
        SAMPLES,
        "[2**30, 2**31, 3 * 2**30]",
        "[2**31, 2**31, 2**31]",
        "test_balanced_keys.py::test_pairs_of_members",
    ),
    Mutant(
        "a balanced rate is off by 1 %",
        SAMPLES,
        "_balanced(shape, key) < p * 2.0**32",
        "_balanced(shape, key) < p * 0.99 * 2.0**32",
        "test_balanced_keys.py::test_each_member_alone_is_independent",
    ),
    Mutant(
        "the four orders are no orders",
        BALANCED,
        "key=orders), axis=0)",
        "key=orders), axis=1)",
        "test_balanced_keys.py::test_places_are_four_random_orders",
    ),
    Mutant(
        "all members have a key of their own",
        BALANCED,
        "mx.broadcast_to(shared, (n, KEY_WORDS))",
        "mx.random.split(shared, n)",
        "test_balanced_keys.py::test_every_channel_is_dropped_equally_often",
    ),
    Mutant(
        "fold_in drops the place",
        FOLD_IN,
        "return with_place_of(key, _draw(salted))",
        "return _draw(salted)",
        "test_balanced_keys.py::test_fold_in_hands_the_place_on",
    ),
    Mutant(
        "a layer forgets its place",
        LAYER,
        "return with_place_of(key, words[:2]), with_place_of(key, words[2:])",
        "return words[:2], words[2:]",
        "test_balanced_keys.py::test_layers_advance_and_keep_their_place",
    ),
    Mutant(
        "one key for all examples ignores their rates",
        CHANNELS,
        "if key.shape[0] == 1 and by_example.count(0) == 0:",
        "if key.shape[0] == 1:",
        "laws/test_09_cut.py::test_one_key_for_all_examples_and_rates_of_any_shape",
    ),
    Mutant(
        "a model's subnetworks are in training mode",
        SUBNETWORKS,
        "                module.eval()\n",
        "                pass\n",
        "test_predict.py::test_batch_norm_is_in_eval_mode",
    ),
    Mutant(
        "a model is not restored",
        SUBNETWORKS,
        "    with put_back(model):\n",
        "    if True:\n",
        "test_predict.py::test_the_model_is_left_as_it_was",
    ),
    Mutant(
        "a layer's class is not restored",
        SNAPSHOT,
        "                container.__class__ = kind\n",
        "",
        "test_predict.py::test_the_model_is_left_as_it_was",
    ),
    Mutant(
        "a layer that no key reaches is ignored",
        SUBNETWORKS,
        "elif dropout is True:",
        "elif False:",
        "test_predict.py::test_a_layer_that_no_key_reaches",
    ),
    Mutant(
        "converting draws from the global stream",
        SUBNETWORKS,
        "convert_layer(layer, key=mx.random.key(0))",
        "convert_layer(layer)",
        "test_predict.py::test_the_model_is_left_as_it_was",
    ),
    Mutant(
        "chunks are evaluated all at once",
        SAMPLE,
        "mx.eval(parts[-1])",
        "pass",
        "test_sample.py::test_evaluates_chunk_by_chunk",
    ),
    Mutant(
        "a sample of a model is not one subnetwork",
        SAMPLE,
        "chosen[:, None] if isinstance(fn, nn.Module) else chosen",
        "chosen",
        "test_sample.py::test_of_a_model_each_key_is_one_subnetwork",
    ),
    Mutant(
        "a prediction's sample is not one subnetwork",
        PREDICT,
        "drawn = key[None] if consistent",
        "drawn = key if consistent",
        "test_predict.py::test_a_key_is_one_network",
    ),
    Mutant(
        "an example's place is that in its batch",
        PREDICT,
        "example_keys(key, n, first_example)",
        "example_keys(key, n)",
        "test_predict.py::test_a_network_for_each_example",
    ),
    Mutant(
        "a sample's number is that in its chunk",
        CLASSIFY,
        "{self._entropy.samples + index[0]}{self._name",
        "{index[0]}{self._name",
        "test_predict.py::test_the_sample_that_has_nan_is_named",
    ),
    Mutant(
        "an example's number is that in its batch",
        "uncertainty/_blockwise_summary.py",
        "self._first_example + example",
        "example",
        "test_predict.py::test_the_sample_that_has_nan_is_named",
    ),
    Mutant(
        "large logits overflow",
        CLASSIFY,
        "logits - logits.max(-1, keepdims=True)",
        "logits",
        "test_summaries.py::test_large_logits_do_not_overflow",
    ),
    Mutant(
        "0 * log(0) is nan",
        CLASSIFY,
        "mx.where(probabilities > 0, logarithms, 0)",
        "logarithms",
        "test_summaries.py::test_classes_that_are_ruled_out",
    ),
    Mutant(
        "a mutual information may be negative",
        CLASSIFY,
        "mx.maximum(predictive_entropy - expected_entropy, 0)",
        "predictive_entropy - expected_entropy",
        "test_summaries.py::test_bounds",
    ),
    Mutant(
        "the votes are those of the rarest class",
        CLASSIFY,
        "self._votes.max(-1)",
        "self._votes.min(-1)",
        "test_summaries.py::test_classify_is_scipys",
    ),
    Mutant(
        "chunks weigh the same",
        RUNNING,
        "(mean - self.mean) * (samples / self.samples)",
        "(mean - self.mean) * 0.5",
        "test_predict.py::test_any_cut_of_a_classification",
    ),
    Mutant(
        "a variance loses its digits",
        RUNNING,
        "self._first = samples[0]",
        "self._first = samples[0] * 0",
        "test_summaries.py::test_a_mean_of_a_million_deviations",
    ),
    Mutant(
        "chunks' means do not differ",
        RUNNING,
        "(share * (1 - share))",
        "0",
        "test_predict.py::test_any_cut_of_a_regression",
    ),
    Mutant(
        "aleatoric is left out of the total",
        REGRESS,
        "epistemic + aleatoric)",
        "epistemic)",
        "test_summaries.py::test_regress_is_numpys",
    ),
    Mutant(
        "negative variances pass",
        REGRESS,
        "            variances < 0,\n",
        "            variances < -2,\n",
        "test_summaries.py::test_negative_variances",
    ),
    Mutant(
        "a label of K passes",
        CHECKS,
        "labels >= classes",
        "labels > classes",
        "test_calibration.py::test_a_label_that_is_out_of_range",
    ),
    Mutant(
        "probabilities need not add up to 1",
        CHECKS,
        "mx.abs(sums - 1) < rounding",
        "sums < 9",
        "test_calibration.py::test_what_is_no_probability",
    ),
    Mutant(
        "a confidence between two bins is in the upper",
        CALIBRATION,
        "> mx.arange(1, bins) / bins",
        ">= mx.arange(1, bins) / bins",
        "test_calibration.py::test_a_confidence_between_two_bins_is_in_the_lower_one",
    ),
    Mutant(
        "the gaps cancel",
        CALIBRATION,
        "mx.abs(confidence - right).sum()",
        "mx.abs((confidence - right).sum())",
        "test_calibration.py::test_reliability_curve_is_scikit_learns",
    ),
    Mutant(
        "the Brier score is a mean over classes",
        SCORES,
        "** 2).sum(-1)",
        "** 2).mean(-1)",
        "test_calibration.py::test_scores_are_scikit_learns",
    ),
    Mutant(
        "the likelihood is in bits",
        SCORES,
        "-mx.log(mx.minimum(",
        "-mx.log2(mx.minimum(",
        "test_calibration.py::test_scores_are_scikit_learns",
    ),
    Mutant(
        "equally uncertain ones come as they come",
        RISK,
        "_last_equal(threshold) + 1",
        "mx.arange(threshold.size) + 1",
        "test_calibration.py::test_risk_against_coverage",
    ),
    Mutant(
        "the most uncertain come first",
        RISK,
        "mx.argsort(uncertainty.flatten())",
        "mx.argsort(-uncertainty.flatten())",
        "test_calibration.py::test_risk_of_right_and_wrong_guesses",
    ),
    Mutant(
        "many are added one after another",
        SUMS,
        "while len(values) > _BLOCK:",
        "while len(values) > 10**9:",
        "test_calibration.py::test_sums_of_many",
    ),
    Mutant(
        "rounding makes counts uneven",
        SAMPLES,
        "return shifted - shifted % 2**8",
        "return shifted",
        "test_balanced_keys.py::test_rounding_leaves_counts_even",
    ),
    Mutant(
        "the mean variance is not evaluated with the rest",
        REGRESS,
        "[*self._means.arrays(), self._variances.mean]",
        "self._means.arrays()",
        "test_predict.py::test_memory_does_not_grow_with_samples",
    ),
    Mutant(
        "summaries are of all voxels at once",
        "uncertainty/_blockwise_summary.py",
        "_BLOCK = 2**16",
        "_BLOCK = 2**30",
        "test_predict.py::test_memory_does_not_grow_with_samples",
    ),
    Mutant(
        "dropout that is not called passes",
        CALL,
        "if not called and any(",
        "if False and any(",
        "test_predict.py::test_a_model_whose_dropout_is_not_called",
    ),
    Mutant(
        "rates of zero pass",
        SUBNETWORKS,
        "        _check_layers(model, dropout)\n",
        "",
        "test_predict.py::test_a_model_whose_rates_are_zero",
    ),
    Mutant(
        "one key is vmapped, too",
        OVER_KEYS,
        "if len(keys) > 1 and not one_by_one:",
        "if not one_by_one:",
        "test_predict.py::test_a_model_that_cannot_be_vmapped",
    ),
    Mutant(
        "probabilities pass for logits",
        CLASSIFY,
        "add_up & (logits >= 0).all()",
        "add_up & (logits >= 2).all()",
        "test_predict.py::test_probabilities_in_place_of_logits",
    ),
    Mutant(
        "only the first of several inputs is cut",
        PREDICT,
        "[array[start : start + size] for array in inputs]",
        "[inputs[0][start : start + size], *inputs[1:]]",
        "test_predict.py::test_several_inputs",
    ),
    Mutant(
        "alpha dropout's variance is off",
        ALPHA,
        "(1 + p * ALPHA**2)",
        "(1 + ALPHA**2)",
        "test_alpha_dropout.py::test_mean_and_variance_are_kept",
    ),
    Mutant(
        "alpha dropout does not move the mean back",
        ALPHA,
        "kept * raised - lowered",
        "kept * raised - raised",
        "test_alpha_dropout.py::test_the_affine_maps_are_the_papers",
    ),
    Mutant(
        "the shift is lost",
        AFFINE,
        "return y if shift is None else _by_channel(mx.add, y, shift)",
        "return y",
        "test_alpha_dropout.py::test_the_affine_maps_are_the_papers",
    ),
    Mutant(
        "Gaussian noise of another variance",
        GAUSSIAN,
        "module.sqrt(p / (1 - p))",
        "module.sqrt(p)",
        "test_gaussian_dropout.py::test_the_distribution",
    ),
    Mutant(
        "balanced normal numbers reach infinity",
        SAMPLES,
        "(2.0**-24 - 1)",
        "(-1.0)",
        "test_gaussian_dropout.py::test_finite_for_every_word_of_a_balanced_key",
    ),
    Mutant(
        "a logit of the wrong sign",
        CONCRETE,
        "/ drawn) - logit",
        "/ drawn) + logit",
        "test_concrete_dropout.py::test_the_papers_formula",
    ),
    Mutant(
        "no gradient for the logit",
        CONCRETE,
        "    logit = as_logit(logit)\n",
        "    logit = mx.stop_gradient(as_logit(logit))\n",
        "test_concrete_dropout.py::test_the_gradient_is_that_of_finite_differences",
    ),
    Mutant(
        "the temperature is not used",
        CONCRETE,
        "- logit) / temperature",
        "- logit) / 0.1",
        "test_concrete_dropout.py::test_the_papers_formula",
    ),
    Mutant(
        "the regulariser pulls rates away from a half",
        REGULARIZER,
        "- entropy).sum()",
        "+ entropy).sum()",
        "test_concrete_dropout.py::test_it_learns_the_right_rates",
    ),
    Mutant(
        "the weights' part is of dropout without a scale",
        REGULARIZER,
        "squares * (1 + mx.exp(logit))",
        "squares * kept",
        "test_concrete_dropout.py::test_the_regularizer_and_its_gradients",
    ),
    Mutant(
        "a path for each batch",
        PATH,
        "range(1, x.ndim)",
        "range(x.ndim)",
        "laws/test_02_channel.py::test_both_values_occur_in_every_channel_axis",
    ),
    Mutant(
        "overlaps of blocks are not counted",
        BLOCK,
        "-module.expm1(module.log1p(-p) / seeds)",
        "p / seeds",
        "test_drop_block.py::test_every_position_is_dropped_with_probability_p",
    ),
    Mutant(
        "blocks are not cut at the border before",
        BLOCK,
        "mx.maximum(line[: -step * stride], line[step * stride :])",
        "mx.maximum(line[: -step * stride], line[: -step * stride])",
        "test_drop_block.py::test_any_in_block_is_numpys",
    ),
    Mutant(
        "blocks grow past their size",
        BLOCK,
        "step = min(width, size - width)",
        "step = width",
        "test_drop_block.py::test_any_in_block_is_numpys",
    ),
    Mutant(
        "the last block size is allowed to be one more",
        BLOCK,
        "any(size > n for n in lengths)",
        "any(size > n + 1 for n in lengths)",
        "test_errors.py::test_blocks_larger_than_the_input",
    ),
    Mutant(
        "two draws of a word exclude each other",
        SAMPLES,
        "either - first + both",
        "either - first",
        "test_drop_block.py::test_two_draws_of_one_word_are_independent",
    ),
    Mutant(
        "the second draw of a word is the rarer",
        SAMPLES,
        "p + (1 - p) * p)",
        "p + (1 - p) * p * 0.95)",
        "test_drop_block.py::test_two_draws_of_one_word_are_independent",
    ),
    Mutant(
        "groups alternate",
        GROUPS,
        "return mx.flatten(mx.broadcast_to(each, wide), axis, axis + 1)",
        "return mx.concatenate([mask] * size, axis)",
        "test_groups.py::test_a_group_has_one_draw",
    ),
    Mutant(
        "groups that do not divide the channels pass",
        ARGUMENTS,
        "if shape[axis] % groups:",
        "if False:",
        "test_groups.py::test_groups_that_do_not_divide_the_channels",
    ),
    Mutant(
        "a layer forgets its groups",
        "nn/_channel_layer.py",
        "self._spatial_axes, groups=self._groups)\n\n    def _extra",
        "self._spatial_axes, groups=None)\n\n    def _extra",
        "test_groups.py::test_layers",
    ),
    Mutant(
        "a layer with groups is reverted",
        CONVERT,
        " and layer._groups is None",
        "",
        "test_layers.py::test_a_layer_with_groups_has_no_counterpart",
    ),
    Mutant(
        "a rate that is set becomes a parameter",
        LAYER,
        'if name == "p":',
        "if False:",
        "test_rates.py::test_a_rate_may_be_set",
    ),
    Mutant(
        "a key that is set becomes a parameter",
        LAYER,
        'elif not name.startswith("_") and hasattr(self, f"_{name}"):',
        "elif False:",
        "test_rates.py::test_what_cannot_be_set",
    ),
    Mutant(
        "a layer with keys of its own checks them where they do not matter",
        "nn/_drop_path.py",
        "        check_has_batch(x)\n",
        "        functional.drop_path(x, 0.0, self._key)\n",
        "test_layers.py::test_a_layer_with_a_batch_of_keys_may_be_called_otherwise",
    ),
    Mutant(
        "a rate that is set is not checked",
        LAYER,
        "        as_rate(p)\n",
        "",
        "test_rates.py::test_a_rate_may_be_set",
    ),
    Mutant(
        "rates of 0 to learn from pass",
        "nn/_concrete_dropout.py",
        "elif 0 < rate < 1:",
        "elif rate in (0, 1) or 0 < rate < 1:",
        "test_concrete_dropout.py::test_rates_that_would_not_be_learned",
    ),
    Mutant(
        "a rate of 1 leaves numbers",
        COEFFICIENTS,
        "if rate == 1:",
        "if False:",
        "laws/test_02_channel.py::test_p_0_is_the_identity_and_p_1_is_zeros",
    ),
    Mutant(
        "an array's rate of 1 leaves numbers",
        COEFFICIENTS,
        "mx.where(rate == 1, 0.0, number)",
        "number",
        "laws/test_02_channel.py::test_p_0_is_the_identity_and_p_1_is_zeros",
    ),
    Mutant(
        "the first channels are kept",
        KEEP,
        "choice(channels, kept, key)",
        "mx.arange(kept)",
        "test_keep_channels.py::test_every_set_is_equally_likely",
    ),
    Mutant(
        "kept channels in any order",
        KEEP,
        "mx.sort(choice(channels, kept, key))",
        "choice(channels, kept, key)",
        "test_keep_channels.py::test_a_fixed_number_in_ascending_order",
    ),
    Mutant(
        "no channel may be kept",
        KEEP,
        "min(channels, max(1, round(",
        "min(channels, max(0, round(",
        "test_keep_channels.py::test_how_many",
    ),
    Mutant(
        "how many are kept is rounded down",
        KEEP,
        "round((1 - as_fixed_rate(p)) * channels)",
        "int((1 - as_fixed_rate(p)) * channels)",
        "test_keep_channels.py::test_how_many",
    ),
    Mutant(
        "a thin rate of 1 passes",
        KEEP,
        "if not 0 <= number < 1:",
        "if not 0 <= number <= 1:",
        "test_keep_channels.py::test_rates_that_fix_no_number",
    ),
    Mutant(
        "a key for each example passes where one is needed",
        KEEP,
        "if key.ndim > 2 or (key.ndim == 2 and key.shape[0] != 1):",
        "if False:",
        "test_keep_channels.py::test_keys",
    ),
    Mutant(
        "a key that keeps channels is differentiated",
        KEEP,
        "key = mx.stop_gradient(key.flatten())",
        "key = key.flatten()",
        "test_keep_channels.py::test_the_key_has_no_gradient",
    ),
    Mutant(
        "balanced members keep channels on their own",
        SAMPLES,
        "order_key, bits = mx.random.split(without_place(key))",
        "order_key, bits = mx.random.split(without_place(key) + place(key)[:2])",
        "test_keep_channels.py::test_balanced_keys_keep_each_channel_as_often",
    ),
    Mutant(
        "kept channels are scaled by 1 / p",
        THIN,
        "channels / kept.shape[0]",
        "channels / max(1, channels - kept.shape[0])",
        "test_thin_dropout.py::test_one_mask_for_the_batch_that_keeps_a_fixed_number",
    ),
    Mutant(
        "a thin mask along the last axis",
        THIN,
        "axis = channel_axis(len(mask_shape), axes)",
        "axis = x.ndim - 1",
        "test_thin_dropout.py::test_one_mask_for_the_batch_that_keeps_a_fixed_number",
    ),
    Mutant(
        "a thin rate that is set is not checked",
        "nn/_thin_layer.py",
        "        as_fixed_rate(p)\n",
        "",
        "test_thin_dropout.py::test_the_rate_may_be_set",
    ),
    Mutant(
        "a thin layer keeps its key",
        "nn/_thin_layer.py",
        "keep_channels(key, channels, self.p),",
        "keep_channels(self._key, channels, self.p),",
        "test_thin_sequential.py::test_keys_advance_as_the_dense_ones",
    ),
    Mutant(
        "the branch is computed for all",
        THIN_PATH,
        "y = branch(take_kept(x, kept, 0), *follow)",
        "y = take_kept(branch(x, *others), kept, 0)",
        "test_thin_drop_path.py::test_the_branch_gets_the_kept_examples_alone",
    ),
    Mutant(
        "the branch is not scaled",
        THIN_PATH,
        "among_zeros(y * scale, kept, 0, examples)",
        "among_zeros(y, kept, 0, examples)",
        "test_thin_drop_path.py::test_it_is_the_masked_branch",
    ),
    Mutant(
        "a branch may give one output for all",
        THIN_PATH,
        "if y.shape[:1] != kept.shape:",
        "if False:",
        "test_thin_drop_path.py::test_bad_inputs",
    ),
    Mutant(
        "thin stochastic depth in eval mode",
        "nn/_thin_drop_path.py",
        "if not self.training or x.shape[0] == 0:",
        "if x.shape[0] == 0:",
        "test_thin_drop_path.py::test_tools_for_whole_models",
    ),
    Mutant(
        "all outputs are computed",
        CHAIN,
        "outputs = following._keep(channels)",
        "following._keep(channels)",
        "test_thin_sequential.py::test_what_is_dropped_is_not_computed",
    ),
    Mutant(
        "channels are dropped before what mixes them",
        CHAIN,
        "        if not is_for_each_channel(layer):\n            return None\n",
        "",
        "test_thin_sequential.py::test_outputs_and_gradients_are_the_dense_ones",
    ),
    Mutant(
        "kept channels go on through what makes 1 of 0",
        CHAIN,
        "(ahead or is_keeping_zero(layer))",
        "is_for_each_channel(layer)",
        "test_thin_sequential.py::test_outputs_and_gradients_are_the_dense_ones",
    ),
    Mutant(
        "nothing runs on kept channels but what keeps 0",
        CHAIN,
        "(ahead or is_keeping_zero(layer))",
        "is_keeping_zero(layer)",
        "test_thin_sequential.py::test_outputs_and_gradients_are_the_dense_ones",
    ),
    Mutant(
        "kept channels are not scaled in the chain",
        CHAIN,
        "x = x * kept_scale(kept, channels, x.dtype)",
        "pass",
        "test_thin_sequential.py::test_outputs_and_gradients_are_the_dense_ones",
    ),
    Mutant(
        "a second dropout in a row is lost",
        CHAIN,
        "if ahead and kept is not None and _is_thinning(layer):",
        "if kept is not None and _is_thinning(layer):",
        "test_thin_sequential.py::test_outputs_and_gradients_are_the_dense_ones",
    ),
    Mutant(
        "a chain that drops nothing runs thin",
        CHAIN,
        "type(layer) is ThinDropout and layer._would_drop()",
        "type(layer) is ThinDropout",
        "test_thin_sequential.py::test_the_mode_is_that_of_the_dropouts",
    ),
    Mutant(
        "Sequentials inside are called as a whole",
        CHAIN,
        "if type(layer) in (nn.Sequential, ThinSequential):",
        "if False:",
        "test_thin_sequential.py::test_what_is_dropped_is_not_computed_by_linear_layers",
    ),
    Mutant(
        "a chain gives kept channels alone",
        CHAIN,
        "return x if kept is None else among_zeros(x, kept, -1, channels)",
        "return x",
        "test_thin_sequential.py::test_outputs_and_gradients_are_the_dense_ones",
    ),
    Mutant(
        "channels that do not match pass",
        CHAIN,
        "if expected not in (None, received):",
        "if False:",
        "test_thin_sequential.py::test_channels_that_do_not_match",
    ),
    Mutant(
        "a chain without thin dropout passes",
        CHAIN,
        "if not any(isinstance(layer, ThinDropout) for _, layer in _chain(self)):",
        "if False:",
        "test_thin_sequential.py::test_no_thin_dropout",
    ),
    Mutant(
        "a convolution with groups runs thin",
        PARTS,
        ' and getattr(layer, "groups", 1) == 1',
        "",
        "test_thin_sequential.py::test_outputs_and_gradients_are_the_dense_ones",
    ),
    Mutant(
        "what inherits is taken for its parent",
        PARTS,
        "type(layer) in _KEEPING_ZERO",
        "isinstance(layer, tuple(_KEEPING_ZERO))",
        "test_thin_sequential.py::test_outputs_and_gradients_are_the_dense_ones",
    ),
    Mutant(
        "the bias of dropped channels is added",
        PARTS,
        "part.bias = take_kept(layer.bias, outputs, 0)",
        "part.bias = layer.bias[: len(outputs)]",
        "test_thin_sequential.py::test_outputs_and_gradients_are_the_dense_ones",
    ),
    Mutant(
        "statistics of kept channels are lost",
        PARTS,
        "layer[name] = put_kept(whole, kept, part[name], -1)",
        "pass",
        "test_thin_sequential.py::test_running_statistics",
    ),
    Mutant(
        "statistics of dropped channels are forgotten",
        PARTS,
        "put_kept(whole, kept, part[name], -1)",
        "put_kept(mx.zeros_like(whole), kept, part[name], -1)",
        "test_thin_sequential.py::test_running_statistics",
    ),
    Mutant(
        "other dropouts draw for the kept channels alone",
        PARTS,
        "shape = [*x.shape[:-1], channels]",
        "shape, kept = [*x.shape], mx.arange(x.shape[-1])",
        "test_thin_sequential.py::test_outputs_and_gradients_are_the_dense_ones",
    ),
    Mutant(
        "thin samples are vmapped by default",
        OVER_KEYS,
        "if chunk is not None or dropout is False or not isinstance(fn, nn.Module):",
        "if True:",
        "test_thin_sequential.py::test_samples_are_taken_one_after_another",
    ),
    Mutant(
        "a subclass of thin dropout is thinned",
        CHAIN,
        "return type(layer) is ThinDropout and",
        "return isinstance(layer, ThinDropout) and",
        "test_thin_sequential.py::test_what_inherits_from_thin_dropout_is_called",
    ),
    Mutant(
        "channels before the first convolution are all computed",
        CHAIN,
        "if kept is None and is_for_each_channel(layer):",
        "if kept is None and _is_thinning(layer):",
        "test_thin_sequential.py::test_running_statistics",
    ),
    Mutant(
        "integers are dropped",
        CHAIN,
        "                check_dtype(x.dtype)\n",
        "",
        "test_thin_sequential.py::test_integers_that_reach_the_dropout",
    ),
    Mutant(
        "statistics keep their dtype",
        PARTS,
        "layer[name].astype(part[name].dtype)",
        "layer[name]",
        "test_thin_sequential.py::test_statistics_have_the_dtype_of_the_dense_ones",
    ),
    Mutant(
        "all thin chains are sampled one by one",
        OVER_KEYS,
        "if any(map(is_convolution, layers)) and any(id(m) in thinning for m in layers):",
        "if True:",
        "test_thin_sequential.py::test_what_is_not_thin_is_vmapped",
    ),
    Mutant(
        "thin stochastic depth passes for a subnetwork",
        SUBNETWORKS,
        "if by_place and dropout is not False:",
        "if False:",
        "test_thin_drop_path.py::test_it_is_no_subnetwork",
    ),
    Mutant(
        "what else a branch takes is of all examples",
        THIN_PATH,
        "branch(take_kept(x, kept, 0), *follow)",
        "branch(take_kept(x, kept, 0), *others)",
        "test_thin_drop_path.py::test_what_else_the_branch_takes_of_each_example",
    ),
    Mutant(
        "draws of a model from the global stream pass",
        OVER_KEYS,
        "            yield checked(function)\n",
        "            yield function\n",
        "test_purity.py::test_draws_from_the_global_stream",
    ),
    Mutant(
        "draws of a function from the global stream pass",
        OVER_KEYS,
        "    yield checked(fn)\n",
        "    yield fn\n",
        "test_purity.py::test_draws_from_the_global_stream",
    ),
    Mutant(
        "draws in a trace that carries the stream pass",
        PURITY,
        "its words are not known yet.\n        pass\n",
        "its words are not known yet.\n        return\n",
        "test_purity.py::test_draws_within_transforms",
    ),
    Mutant(
        "the global stream stays moved",
        PURITY,
        "set_stream(words)",
        "pass",
        "test_purity.py::test_draws_from_the_global_stream",
    ),
    Mutant(
        "a stream that is carried and not drawn from passes for a draw",
        PURITY,
        "if words == words_now:",
        "if False:",
        "test_purity.py::test_a_compiled_model_that_carries_the_stream_without_drawing",
    ),
    Mutant(
        "changes of an argument pass",
        PURITY,
        "    if changes:\n",
        "    if False:\n",
        "test_purity.py::test_a_key_value_cache",
    ),
    Mutant(
        "changes of an argument are left",
        PURITY,
        "_put(containers, [container.contents for container in containers])",
        "pass",
        "test_purity.py::test_a_key_value_cache",
    ),
    Mutant(
        "attributes of arguments are not looked at",
        PURITY,
        'hasattr(value, "__dict__")',
        "False",
        "test_purity.py::test_a_key_value_cache",
    ),
    Mutant(
        "calls are given the arrays themselves",
        PURITY,
        "copies.setdefault(id(value), copy.copy(value))",
        "value",
        "test_purity.py::test_arrays_that_are_changed_in_place",
    ),
    Mutant(
        "an array in two places becomes two",
        PURITY,
        "copies.setdefault(id(value), ",
        "copies.setdefault(len(copies), ",
        "test_purity.py::test_arguments_that_stay_as_they_were",
    ),
    Mutant(
        "what is assigned anew and equal passes for a change",
        PURITY,
        "    if isinstance(was, _PLAIN):\n",
        "    if False:\n",
        "test_purity.py::test_arguments_that_stay_as_they_were",
    ),
    Mutant(
        "what is returned is put back with the arguments",
        PURITY,
        "with_own_containers(function(key, *own))",
        "function(key, *own)",
        "test_purity.py::test_arrays_that_are_changed_in_place",
    ),
    Mutant(
        "generators run after the call",
        SNAPSHOT,
        "if isinstance(output, (Iterator, AsyncIterator, Coroutine)):",
        "if False:",
        "test_functional_call.py::test_outputs_that_are_computed_after_the_call",
    ),
    Mutant(
        "rekey leaves the keys of ranks that are seeded alike",
        MODEL_KEYS,
        "    assign_keys(layers, key)\n\n\ndef get_keys",
        "\n\ndef get_keys",
        "test_distributed.py::test_masks_of_plain_layers",
    ),
    Mutant(
        "rekey gives all examples of a rank the key of its first",
        MODEL_KEYS,
        "fold_in(key, words)",
        "fold_in(key[:1] if key.ndim > 1 else key, words)",
        "test_distributed.py::test_masks_of_plain_layers",
    ),
    Mutant(
        "the members of a vmap draw alike",
        SURROUNDINGS,
        "for index in surroundings.get().members:",
        "for index in ():",
        "laws/test_05_vmap_own_key.py::test_over_inputs",
    ),
    Mutant(
        "the outer index of nested vmaps is forgotten",
        TRANSFORMS,
        "members=(*surroundings.get().members, index)",
        "members=(index,)",
        "laws/test_05_vmap_own_key.py::test_nested",
    ),
    Mutant(
        "indices are folded into keys that were given",
        IN_THE_CALL,
        "members=(), ",
        "",
        "laws/test_05_vmap_own_key.py::test_keys_that_are_given_are_used_as_they_are",
    ),
    Mutant(
        "a compiled function in a vmap is the same for all members",
        TRANSFORMS,
        "if around.members:",
        "if False:",
        "laws/test_05_vmap_own_key.py::test_a_compiled_function_in_a_vmap",
    ),
    Mutant(
        "what a layer was is not noted",
        LAYER,
        "        note(self, path)\n",
        "",
        "laws/test_08_checkpoint_own_key.py::test_every_layer",
    ),
    Mutant(
        "what a model of functional_call was is not noted",
        CALL,
        "            note(model)\n",
        "",
        "laws/test_08_checkpoint_own_key.py::test_functional_call_inside",
    ),
    Mutant(
        "the index of a member is no input of a checkpoint",
        RECOMPUTATION,
        "around._replace(members=tuple(indices), new=[])",
        "around._replace(new=[])",
        "laws/test_08_checkpoint_own_key.py::test_gradient_of_a_vmap_of_a_checkpoint",
    ),
    Mutant(
        "what a tool has put in is no input of a checkpoint",
        RECOMPUTATION,
        "snapshot.restore(arrays)",
        "snapshot.restore()",
        "laws/test_08_checkpoint_own_key.py::test_functional_call_around_in_a_vmap",
    ),
    Mutant(
        "a recomputation forgets the tool that has called it",
        RECOMPUTATION,
        "now = around._replace(members=tuple(indices), new=[])",
        "now = surroundings.get()._replace(members=tuple(indices), new=[])",
        "laws/test_08_checkpoint_own_key.py::test_functional_call_around_nested_checkpoints",
    ),
    Mutant(
        "what mlx.nn's checkpoint puts into a module stays there",
        RECOMPUTATION,
        "held += map(Snapshot, _modules_of(fun))",
        "pass",
        "test_transforms.py::test_checkpointed_and_nested_steps_that_carry_nothing",
    ),
    Mutant(
        "integers are differentiated by a checkpoint",
        RECOMPUTATION,
        "constant = _EXACT",
        "constant = frozenset()",
        "test_checkpoint.py::test_token_ids_into_an_embedding",
    ),
    Mutant(
        "a key that is a constant of a trace passes",
        SURROUNDINGS,
        "            if is_constant(key):\n",
        "            if False:\n",
        "test_transforms.py::test_the_keys_are_not_carried",
    ),
    Mutant(
        "a key that is an input alone passes",
        TRANSFORMS,
        "if id(key) in taken - given and",
        "if False and",
        "test_transforms.py::test_the_keys_are_among_the_inputs_alone",
    ),
    Mutant(
        "a key that was given has to be carried",
        IN_THE_CALL,
        "trace=None, ",
        "",
        "test_transforms.py::test_situations_without_an_alarm",
    ),
    Mutant(
        "a function that is not traced has to carry keys",
        TRANSFORMS,
        "        if is_constant(sentinel[0]):",
        "        if False:",
        "test_transforms.py::test_situations_without_an_alarm",
    ),
    Mutant(
        "a key is split so that mx.compile fails",
        LAYER,
        "return with_place_of(key, words[:2]), with_place_of(key, words[2:])",
        "return tuple(with_place_of(key, part) for part in mx.split(words, 2))",
        "test_transforms.py::test_the_keys_are_carried",
    ),
    Mutant(
        "threads change one model at the same time",
        SNAPSHOT,
        "    with changing_models:\n        before",
        "    if True:\n        before",
        "test_threads.py::test_tools_in_eight_threads_give_the_bits_of_one",
    ),
    Mutant(
        "a plain call draws by the keys of a tool's call in another thread",
        IN_THE_CALL,
        "if _in_use and any(id(layer) in m and who != get_ident() for m, who in _in_use):",
        "if False:",
        "test_threads.py::test_a_plain_call_in_another_thread_meanwhile",
    ),
    Mutant(
        "a layer that keeps all advances its key",
        LAYER,
        "        if keeps_all:\n",
        "        if False:\n",
        "test_memory.py::test_a_loop_holds_no_history",
    ),
    Mutant(
        "a thin layer that keeps all advances its key",
        "nn/_thin_layer.py",
        "number_kept(channels, self.p) == channels,",
        "False,",
        "test_memory.py::test_a_loop_holds_no_history",
    ),
    Mutant(
        "check_step trains the optimizer",
        CHECK_STEP,
        "            for snapshot in snapshots:\n",
        "            for snapshot in ():\n",
        "test_check_step.py::test_the_steps_that_follow_are_those_without_it",
    ),
    Mutant(
        "check_step moves the global stream",
        CHECK_STEP,
        "set_stream(stream)",
        "pass",
        "test_check_step.py::test_the_steps_that_follow_are_those_without_it",
    ),
    Mutant(
        "check_step keeps what a step has changed in place",
        CHECK_STEP,
        "        before.restore_copies()\n",
        "",
        "test_check_step.py::test_what_a_step_changes_in_place_is_put_back",
    ),
    Mutant(
        "layers of mlx.nn in a checkpoint pass",
        CHECK_STEP,
        'if "mx.checkpoint" in transforms:',
        "if False:",
        "test_check_step.py::test_a_half_converted_model_that_checkpoints",
    ),
    Mutant(
        "layers of mlx.nn in a vmap pass",
        CHECK_STEP,
        'elif "mx.vmap" in transforms and theirs:',
        "elif False:",
        "test_check_step.py::test_a_half_converted_model_in_a_vmap",
    ),
    Mutant(
        "a global stream that is not carried passes",
        CHECK_STEP,
        'elif "mx.compile" in transforms or (uncompiled.draws and not calls[-1].draws):',
        "elif False:",
        "test_check_step.py::test_a_half_converted_model_that_is_compiled",
    ),
    Mutant(
        "ranks with the same keys pass",
        CHECK_STEP,
        "if path in own and len({rank_hashes[i] for rank_hashes in others}) < ranks.size()",
        "if False",
        "test_distributed.py::test_masks_of_plain_layers",
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
            path.write_text(path.read_text().replace(mutant.right, mutant.wrong))
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
    for mutant in MUTANTS:
        if mutant.right not in (ROOT / "src" / "chandrop" / mutant.file).read_text():
            sys.exit(f"{mutant.file} no longer has {mutant.right!r}: mend the mutant.")
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
