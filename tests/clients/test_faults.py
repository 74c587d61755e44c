"""What goes wrong in the clients' own code without chandrop, with a number.

A test that fails here shows that a client has changed: docs/clients.md has to say so.
mlx-lm's checkpointing is in test_mlx_lm.py.
"""

from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from clients.models import (
    CLIENTS,
    IMAGES,
    RATE,
    TOKENS,
    class_as_it_was,
    llama_with_lora_by_mlx_vlm,
)
from mlx.utils import tree_flatten

from chandrop.nn import convert, rekey

STEPS = 6
ONE_OF_EACH_PACKAGE = {client.package: client for client in reversed(CLIENTS)}


@pytest.mark.parametrize("package", ONE_OF_EACH_PACKAGE)
def test_a_step_compiled_without_the_random_state(package, compiles):
    """By the state of Apple's speech commands: the first mask for ever."""
    client = ONE_OF_EACH_PACKAGE[package]
    mx.random.seed(0)
    model, optimizer = client.build(), optim.SGD(0.0)
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state]

    def step():
        value, gradients = nn.value_and_grad(model, lambda m: client(m).std())(model)
        optimizer.update(model, gradients)
        return value

    step = mx.compile(step, inputs=state, outputs=state)
    losses = {step().item() for _ in range(STEPS)}
    print(f"different losses in {STEPS} steps: {len(losses)}")
    assert len(losses) == 1


@pytest.mark.parametrize("converted", [False, True], ids=["mlx.nn", "chandrop"])
def test_gradient_checkpointing_of_mlx_vlm(converted):
    """The same fault as mlx-lm's."""
    pytest.importorskip("mlx_vlm")
    from mlx_vlm.trainer.common.utils import enable_model_gradient_checkpointing

    def gradient(checkpointed):
        mx.random.seed(0)
        model = llama_with_lora_by_mlx_vlm()
        if converted:
            rekey(convert(model), mx.random.key(1))
        mx.random.seed(1)
        with class_as_it_was(model):
            if checkpointed:
                enable_model_gradient_checkpointing(model)
            loss_and_gradient = nn.value_and_grad(model, lambda m: m(TOKENS).std())
            _, gradients = loss_and_gradient(model)
            mx.eval(gradients)
        return mx.concatenate([array.flatten() for _, array in tree_flatten(gradients)])

    expected = gradient(checkpointed=False)
    difference = mx.linalg.norm(gradient(checkpointed=True) - expected)
    error = (difference / mx.linalg.norm(expected)).item()
    print(f"relative error of the gradient: {error:.2g}")
    assert error < 1e-4 if converted else error > 0.1


def test_grpo_of_mlx_vlm_looks_for_layers_of_mlx_nn_alone():
    """It refuses dropout, but does not see chandrop's: docs/clients.md says so."""
    pytest.importorskip("mlx_vlm")
    from mlx_vlm.trainer.vlm.grpo.trainer import make_task

    def task(model):
        return make_task(model, SimpleNamespace(beta=0), processing_class=object())

    model = llama_with_lora_by_mlx_vlm()
    with pytest.raises(ValueError, match="requires dropout=0"):
        task(model)
    task(convert(model))


def test_dropout_of_attention_in_swin():
    """mlx-image's ``F.dropout`` asks for an attribute that no array has."""
    pytest.importorskip("mlxim")
    from mlxim.model.swin_transformer.swin_transformer import SwinTransformer

    model = SwinTransformer([4, 4], 24, [2], [2], [4, 4], dropout=RATE, num_classes=10)
    with pytest.raises(AttributeError, match="context"):
        model(IMAGES)
