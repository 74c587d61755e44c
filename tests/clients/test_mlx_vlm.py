"""mlx-vlm's own training loop, compiled and not, with and without checkpointing."""

from itertools import repeat

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from clients.models import TOKENS, class_as_it_was, llama_with_lora_by_mlx_vlm
from mlx.utils import tree_flatten

from chandrop.nn import convert, rekey

pytest.importorskip("mlx_vlm")

from mlx_vlm.trainer.common.config import CoreTrainingArgs
from mlx_vlm.trainer.common.engine import train
from mlx_vlm.trainer.common.task import TrainingTask
from mlx_vlm.trainer.common.utils import enable_model_gradient_checkpointing


def loss(model, tokens):
    losses = nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
    return losses.mean(), {}


def weights_after_training(folder, converted=True, **options):
    mx.random.seed(0)
    model = llama_with_lora_by_mlx_vlm()
    if converted:
        rekey(convert(model), mx.random.key(1))
    mx.random.seed(1)
    adapters = str(folder / "adapters.safetensors")
    arguments = CoreTrainingArgs(iters=4, adapter_file=adapters, **options)
    task = TrainingTask(
        loss,
        lambda *_, **__: repeat(TOKENS),
        checkpoint=enable_model_gradient_checkpointing,
    )
    with class_as_it_was(model):
        train(model, optim.Adam(1e-2), [TOKENS], None, arguments, task)
    arrays = mx.load(adapters)
    assert arrays.keys() == dict(tree_flatten(model.trainable_parameters())).keys()
    mx.eval(arrays)  # before another run writes the file
    return mx.concatenate([array.flatten() for array in arrays.values()])


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("steps", [1, 2], ids=["", "accumulated"])
def test_weights_are_the_same_with_and_without_checkpointing(tmp_path, compiled, steps):
    plain, checkpointed = (
        weights_after_training(
            tmp_path,
            compile=compiled,
            gradient_accumulation_steps=steps,
            grad_checkpoint=grad_checkpoint,
        )
        for grad_checkpoint in (False, True)
    )
    assert mx.linalg.norm(checkpointed - plain) < 1e-3 * mx.linalg.norm(plain)


def test_without_chandrop_they_are_others(tmp_path):
    plain, checkpointed = (
        weights_after_training(tmp_path, converted=False, grad_checkpoint=grad_checkpoint)
        for grad_checkpoint in (False, True)
    )
    error = (mx.linalg.norm(checkpointed - plain) / mx.linalg.norm(plain)).item()
    print(f"relative error of the weights after 4 steps: {error:.2f}")
    assert error > 1e-2
