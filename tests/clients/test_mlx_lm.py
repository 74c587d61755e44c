"""mlx-lm's own training: its checkpointing, its compiled step, its adapters.

Each body runs for LoRA, DoRA, embeddings, experts and a quantised base.
"""

import json
from contextlib import redirect_stdout
from functools import partial
from io import StringIO

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from clients.models import (
    CLIENTS,
    RATE,
    VOCABULARY,
    class_as_it_was,
    llama,
    llama_with_lora,
    lora,
    mixture_of_experts,
)
from mlx.utils import tree_flatten, tree_unflatten
from subjects import assert_same

from chandrop.nn import check_step, convert, get_keys, rekey, set_keys
from chandrop.uncertainty import predict

pytest.importorskip("mlx_lm")

from mlx_lm.tuner.trainer import TrainingArgs, default_loss, grad_checkpoint, train
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

MODELS = {c.name.removeprefix("mlx-lm "): c.build for c in CLIENTS if c.package == "mlx_lm"}
BATCH, LENGTH = 4, 20  # enough tokens for mlx-lm to sort them by expert
LENGTHS = mx.array([[0, LENGTH]] * BATCH)


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def build(request):
    return request.param


def batch(number):
    tokens = mx.random.randint(
        0, VOCABULARY, (BATCH, LENGTH + 1), key=mx.random.key(number)
    )
    return tokens, LENGTHS


def seeded(build, converted=True):
    mx.random.seed(0)
    model = build()
    if converted:
        convert(model)
        rekey(model, mx.random.key(1))
    mx.random.seed(1)
    return model


def trainable(model):
    return dict(tree_flatten(model.trainable_parameters()))


def assert_close(left, right, error):
    """The relative error of all arrays together."""
    assert left.keys() == right.keys()
    assert relative_error(left, right) < error


def relative_error(left, right):
    flat = [mx.concatenate([a.flatten() for a in x.values()]) for x in (left, right)]
    return (mx.linalg.norm(flat[0] - flat[1]) / mx.linalg.norm(flat[1])).item()


# Its checkpointing.


def gradients(build, times, converted=True):
    model = seeded(build, converted)
    with class_as_it_was(model):
        for _ in range(times):
            grad_checkpoint(model.layers[0])
        _, gradients = nn.value_and_grad(model, default_loss)(model, *batch(0))
        gradients = dict(tree_flatten(gradients))
        mx.eval(gradients)
    return gradients


@pytest.mark.parametrize("times", [1, 2], ids=["", "again"])
def test_gradients_under_grad_checkpoint(build, times):
    """Each call of ``train`` checkpoints the blocks again."""
    assert_close(gradients(build, times), gradients(build, 0), 1e-4)


def test_without_chandrop_they_are_of_another_network(build):
    """mlx-lm's fault: if this fails, it is mended, and docs/clients.md has to say so."""
    theirs = [gradients(build, times, converted=False) for times in (1, 0)]
    error = relative_error(*theirs)
    print(f"relative error of the gradient: {error:.2f}")
    assert error > 1e-2


# Its training.


class Reports:
    """What mlx-lm tells of each step."""

    def __init__(self):
        self.losses = []

    def on_train_loss_report(self, report):
        self.losses.append(report["train_loss"])

    def on_val_loss_report(self, report):
        pass


def train_by_mlx_lm(
    model, folder, batches, learning_rate=1e-2, optimizer=None, call=None, **options
):
    """Trains by mlx-lm's ``train``, and returns the loss of each step."""
    call = {"iterate_batches": lambda **_: iter(batches)} | (call or {})
    reports = Reports()
    arguments = TrainingArgs(
        batch_size=BATCH,
        iters=len(batches),
        steps_per_report=1,
        steps_per_save=100,
        adapter_file=str(folder / "adapters.safetensors"),
        **options,
    )
    with class_as_it_was(model), redirect_stdout(StringIO()):
        train(
            model,
            optimizer or optim.Adam(learning_rate),
            None,
            args=arguments,
            training_callback=reports,
            **call,
        )
    return reports.losses


FOUR = [batch(number) for number in range(4)]


@pytest.mark.parametrize("steps", [1, 2], ids=["", "accumulated"])
def test_steps_are_the_same_with_and_without_grad_checkpoint(
    build, steps, tmp_path, compiles
):
    losses, weights = [], []
    for checkpointed in (True, False):
        model = seeded(build)
        losses.append(
            train_by_mlx_lm(
                model,
                tmp_path,
                FOUR,
                grad_checkpoint=checkpointed,
                grad_accumulation_steps=steps,
            )
        )
        weights.append(trainable(model))
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert_close(*weights, 1e-3)


def test_validation_between_steps_changes_nothing(tmp_path, compiles):
    """mlx-lm turns dropout off and on again for it."""
    losses, validation = [], [(list(range(16)), 0)] * BATCH

    def batches(dataset, **_):
        return iter(FOUR if dataset is None else [batch(9)])

    for dataset in (None, validation):
        model = seeded(llama_with_lora)
        options = {"val_dataset": dataset, "iterate_batches": batches}
        losses.append(
            train_by_mlx_lm(model, tmp_path, FOUR, steps_per_eval=1, call=options)
        )
    assert losses[0] == losses[1]


@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
def test_masks_are_new_at_every_step(build, checkpointed, tmp_path, compiles):
    model = seeded(build)
    same = [batch(0)] * 4
    losses = train_by_mlx_lm(
        model, tmp_path, same, learning_rate=0.0, grad_checkpoint=checkpointed
    )
    assert len(set(losses)) == 4


def test_check_step(build, compiles):
    """mlx-lm's step, whose state carries the random stream, too."""
    model, optimizer = seeded(build), optim.Adam(1e-2)
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state, mx.random.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(*batch):
        (loss, _), gradients = nn.value_and_grad(model, default_loss)(model, *batch)
        optimizer.update(model, gradients)
        return loss

    before = trainable(model)
    with class_as_it_was(model):
        grad_checkpoint(model.layers[0])
        check_step(model, step, *batch(0), optimizer=optimizer)
    for name, weight in trainable(model).items():
        assert_same(weight, before[name])


def test_a_run_is_resumed(build, tmp_path, compiles):
    """Bit for bit, with keys and the optimizer's state beside mlx-lm's adapters."""
    uninterrupted = seeded(build)
    train_by_mlx_lm(uninterrupted, tmp_path, FOUR, grad_checkpoint=True)

    model, optimizer = seeded(build), optim.Adam(1e-2)
    train_by_mlx_lm(model, tmp_path, FOUR[:2], optimizer=optimizer, grad_checkpoint=True)
    state, keys = (str(tmp_path / f"{name}.safetensors") for name in ("state", "keys"))
    mx.save_safetensors(state, dict(tree_flatten(optimizer.state)))
    mx.save_safetensors(keys, get_keys(model))

    model, optimizer = seeded(build), optim.Adam(1e-2)
    rekey(model, mx.random.key(2))
    model.load_weights(str(tmp_path / "adapters.safetensors"), strict=False)
    optimizer.state = tree_unflatten(list(mx.load(state).items()))
    set_keys(model, mx.load(keys))
    train_by_mlx_lm(model, tmp_path, FOUR[2:], optimizer=optimizer, grad_checkpoint=True)
    expected = trainable(uninterrupted)
    for name, weight in trainable(model).items():
        assert_same(weight, expected[name])


# Its adapters.


def test_adapters_are_mlx_lm_s(build, tmp_path):
    """Files have the same names, and fused models the same bits, as without chandrop."""
    models = [seeded(build, converted) for converted in (True, False)]
    names = []
    for model in models:
        mx.save_safetensors(str(tmp_path / "adapters.safetensors"), trainable(model))
        names.append(list(mx.load(str(tmp_path / "adapters.safetensors"))))
    assert names[0] == names[1]
    for model in models:
        fused = [(n, m.fuse()) for n, m in model.named_modules() if hasattr(m, "fuse")]
        model.update_modules(tree_unflatten(fused))
        assert not get_keys(model)
    tokens = batch(0)[0]
    assert_same(models[0](tokens), models[1](tokens))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_are_loaded(kind, tmp_path):
    """By mlx-lm's ``load_adapters``, with ``convert`` after it."""
    model = seeded(lambda: lora(llama(), use_dora=kind == "dora"))
    parameters = {"rank": 4, "scale": 10.0, "dropout": RATE}
    config = {"fine_tune_type": kind, "num_layers": 2, "lora_parameters": parameters}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), trainable(model))
    mx.random.seed(0)
    loaded = convert(load_adapters(llama(), str(tmp_path)).eval())
    tokens = batch(0)[0]
    assert_same(loaded(tokens), model.eval()(tokens))
    assert get_keys(loaded).keys() == get_keys(model).keys()


# What it cannot be used for.


@pytest.mark.parametrize("build", [llama, mixture_of_experts])
def test_before_the_adapters_there_is_nothing_to_convert(build):
    model = build()
    before = [(path, id(m), type(m)) for path, m in model.named_modules()]
    with pytest.warns(UserWarning, match="linear_to_lora_layers"):
        assert convert(model) is model
    assert [(path, id(m), type(m)) for path, m in model.named_modules()] == before
    with pytest.raises(ValueError, match="without random layers"):
        predict(model, mx.random.split(mx.random.key(0), 4), batch(0)[0])


def test_layers_of_mlx_lm_after_convert_are_named():
    """A second call of ``linear_to_lora_layers`` adds layers that nobody has converted."""
    model = seeded(lambda: lora(llama(), keys=["self_attn.q_proj"]))
    config = {"rank": 4, "scale": 10.0, "dropout": RATE, "keys": ["mlp.up_proj"]}
    linear_to_lora_layers(model, 2, config)
    optimizer = optim.SGD(0.0)

    def step(*batch):
        (loss, _), gradients = nn.value_and_grad(model, default_loss)(model, *batch)
        optimizer.update(model, gradients)
        return loss

    with class_as_it_was(model):
        grad_checkpoint(model.layers[0])
        with pytest.raises(ValueError, match=r"mlp\.up_proj\.dropout"):
            check_step(model, step, *batch(0), optimizer=optimizer)


def test_a_rate_of_zero_is_named():
    """mlx-lm's own default."""
    model = convert(lora(llama(), p=0.0))
    with pytest.raises(ValueError, match="p = 0"):
        predict(model, mx.random.split(mx.random.key(0), 4), batch(0)[0])
    with pytest.raises(ValueError, match="drop"):
        check_step(model, lambda *batch: default_loss(model, *batch)[0], *batch(0))
