"""Measures what dropout gets wrong in MLX without a word, and what chandrop does there.

Run it with ``python benchmarks/silent_faults.py [--train] [--output FOLDER/NAME]``. Every
fault is measured with layers of ``mlx.nn`` and with chandrop's: the same model after
``convert(model)``. No model and no data are downloaded. ``--train`` adds what 300 steps
make of the first fault, in about two minutes. Without mlx-lm, which needs Python 3.11, its
faults are left out.
"""

import argparse
import importlib.util
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import pandas as pd
import plots
import report
from matplotlib.figure import Figure
from measure import Call, medians
from mlx.utils import tree_flatten
from report import Results, table
from tqdm import tqdm

from chandrop.nn import convert, get_keys, set_keys
from chandrop.random import example_keys

MLX_LM = importlib.util.find_spec("mlx_lm") is not None

RATES = (0.05, 0.1, 0.3)
VOCABULARY, WIDTH, DEPTH, HEADS = 32, 64, 2, 4
BATCH, LENGTH = 4, 32
STEPS = 6
MEMBERS = 8
EXAMPLES = 64
# A training run. The learning rate is that of 1e-4, 3e-4 and 1e-3 which is best without
# checkpointing.
TRAIN_STEPS, TRAIN_RATE, TRAIN_SEEDS = 300, 0.3, 3
LEARNING_RATE = 3e-4
TEST_SEED, TEST_BATCHES = 1000, 16
NOISE = 0.1
BLOCKS = 25

Numbers = list[float] | str
Pair = tuple[Numbers, Numbers]
Loss = Callable[[nn.Module], mx.array]
# Leaves a model as it is, or converts it.
Prepare = Callable[[nn.Module], nn.Module]
Measure = Callable[[Prepare], list[float]]


RATES_SHOWN = f"p = {', '.join(map(str, RATES))}"
ERROR = "relative error of a step's gradient"
TRAINING = f"{TRAIN_STEPS} steps of mlx-lm's LoRA, p = {TRAIN_RATE}"
TEST_LOSS = f"test loss, {TRAIN_SEEDS} seeds"


@dataclass
class Fault:
    """What is done, what is measured of it, what would be right, and a figure's format.

    Attributes:
        compare: returns the figures of a model as it is, and after ``convert(model)``.
        needs: "mlx-lm", or "training" by it.
    """

    use: str
    measured: str
    right: str
    form: str
    compare: Callable[[], Pair]
    needs: str | None = None

    def results(self) -> Results:
        theirs, ours = self.compare()
        facts = {name: getattr(self, name) for name in ("use", "measured", "right", "form")}
        return facts | {"mlx.nn": theirs, "chandrop": ours}


# In the order of the table.
FAULTS: list[Fault] = []


def fault(
    use: str, measured: str, right: str, form: str = "{:.0f}", needs: str | None = None
) -> Callable[[Measure], Measure]:
    """Adds a fault. The decorated function returns the figures of one model."""

    def add(measure: Measure) -> Measure:
        compare = partial(both, measure)
        FAULTS.append(Fault(use, measured, right, form, compare, needs))
        return measure

    return add


def as_it_is(model: nn.Module) -> nn.Module:
    return model


def both(measure: Measure) -> Pair:
    def or_error(prepare: Prepare) -> Numbers:
        mx.random.seed(0)
        try:
            return measure(prepare)
        except ValueError as error:
            # An error is not silent: the table says that there is one.
            return f"{type(error).__name__}: {error}"

    return or_error(as_it_is), or_error(convert)


# The first fault: a checkpointed block is computed twice, with other masks.


def llama_with_lora(p: float) -> nn.Module:
    """A small Llama with random weights, prepared for LoRA as mlx-lm does it."""
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.tuner.utils import linear_to_lora_layers

    model = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            intermediate_size=2 * WIDTH,
            num_attention_heads=HEADS,
            rms_norm_eps=1e-5,
            vocab_size=VOCABULARY,
            tie_word_embeddings=False,
        )
    )
    model.freeze()
    linear_to_lora_layers(model, DEPTH, {"rank": 8, "scale": 20.0, "dropout": p})
    return model


@contextmanager
def blocks_as_they_were(model: nn.Module) -> Iterator[None]:
    """Undoes what is done inside to the class of a model's blocks."""
    kind = type(model.layers[0])
    call = kind.__call__
    try:
        yield
    finally:
        kind.__call__ = call


@contextmanager
def blocks_checkpointed(model: nn.Module) -> Iterator[None]:
    from mlx_lm.tuner.trainer import grad_checkpoint

    with blocks_as_they_were(model):
        grad_checkpoint(model.layers[0])
        yield


@contextmanager
def encoder_checkpointed(encoder: nn.TransformerEncoder) -> Iterator[None]:
    encoder.checkpoint = True
    yield
    encoder.checkpoint = False


def error_of_gradient(model: nn.Module, loss: Loss, checkpointed: Any) -> float:
    """The relative error of a step's gradient, against the same masks not checkpointed."""
    keys = get_keys(model)

    def loss_and_gradient() -> tuple[mx.array, mx.array]:
        # This lets mlx.nn's layers and chandrop's repeat the masks of the forward pass.
        mx.random.seed(1)
        if keys:
            set_keys(model, keys)
        value, gradient = nn.value_and_grad(model, loss)(model)
        flat = mx.concatenate([array.flatten() for _, array in tree_flatten(gradient)])
        mx.eval(value, flat)
        return value, flat

    expected_loss, expected = loss_and_gradient()
    with checkpointed(model):
        value, gradient = loss_and_gradient()
    if not mx.allclose(value, expected_loss):
        raise RuntimeError(
            f"The losses differ, and so the masks: {value}, {expected_loss}."
        )
    return (mx.linalg.norm(gradient - expected) / mx.linalg.norm(expected)).item()


@fault(
    f"LoRA by mlx-lm with `grad_checkpoint`, {RATES_SHOWN}", ERROR, "0", "{:.2g}", "mlx-lm"
)
def grad_checkpoint(prepare: Prepare) -> list[float]:
    """One step of LoRA, with mlx-lm's ``grad_checkpoint``."""
    tokens = mx.random.randint(0, VOCABULARY, (BATCH, LENGTH + 1), key=mx.random.key(0))

    def loss(model: nn.Module) -> mx.array:
        logits = model(tokens[:, :-1])
        return nn.losses.cross_entropy(logits, tokens[:, 1:], reduction="mean")

    models = [prepare(llama_with_lora(p)) for p in RATES]
    return [error_of_gradient(model, loss, blocks_checkpointed) for model in models]


# The test loss after training with the first fault.


def successors() -> mx.array:
    """For each token the one that follows it in the language to be learned."""
    return mx.random.permutation(VOCABULARY, key=mx.random.key(7))


def sentences(seed: int) -> Iterator[tuple[mx.array, mx.array]]:
    """Yields batches and lengths as mlx-lm's trainer takes them, without end.

    A token is followed by its successor, and now and then by any other.
    """
    following, key = successors(), mx.random.key(seed)
    while True:
        key, first, chance, other = mx.random.split(key, 4)
        token = mx.random.randint(0, VOCABULARY, (BATCH,), key=first)
        surprises = mx.random.bernoulli(NOISE, (LENGTH, BATCH), key=chance)
        others = mx.random.randint(0, VOCABULARY, (LENGTH, BATCH), key=other)
        tokens = [token]
        for surprise, another in zip(surprises, others, strict=True):
            token = mx.where(surprise, another, following[token])
            tokens.append(token)
        yield mx.stack(tokens, axis=1), mx.array([[0, LENGTH]] * BATCH)


def test_loss_after_training(model: nn.Module, seed: int, checkpointed: bool) -> float:
    """Trains with mlx-lm's own trainer."""
    from mlx_lm.tuner.trainer import TrainingArgs, default_loss, train

    def batches(**_: Any) -> Iterator[tuple[mx.array, mx.array]]:
        return sentences(seed)

    with (
        tempfile.TemporaryDirectory() as folder,
        blocks_as_they_were(model),
        redirect_stdout(StringIO()),
    ):
        arguments = TrainingArgs(
            batch_size=BATCH,
            iters=TRAIN_STEPS,
            steps_per_report=TRAIN_STEPS,
            steps_per_save=TRAIN_STEPS,
            adapter_file=f"{folder}/adapters.safetensors",
            grad_checkpoint=checkpointed,
        )
        optimizer = mlx.optimizers.Adam(LEARNING_RATE)
        train(model, optimizer, None, args=arguments, iterate_batches=batches)
    model.eval()
    tests = itertools.islice(sentences(TEST_SEED), TEST_BATCHES)
    return mx.stack([default_loss(model, *test)[0] for test in tests]).mean().item()


def test_losses(prepare: Prepare, checkpointed: bool) -> list[float]:
    """Test losses after LoRA fine-tuning, for each seed."""
    losses = []
    for seed in range(TRAIN_SEEDS):
        mx.random.seed(seed)
        model = prepare(llama_with_lora(TRAIN_RATE))
        losses.append(test_loss_after_training(model, seed, checkpointed))
    return losses


def after_training(with_or_without: str) -> str:
    return f"{TRAINING}, {with_or_without} `grad_checkpoint`"


for with_or_without, right in (("with", "as without `grad_checkpoint`"), ("without", "")):
    use = after_training(with_or_without)
    measure = partial(test_losses, checkpointed=with_or_without == "with")
    fault(use, TEST_LOSS, right, "{:.2f}", "training")(measure)


# The other faults.


@fault(
    "`mx.compile` without `mx.random.state`, as in Apple's speech-commands example",
    f"different losses in {STEPS} steps at learning rate 0",
    str(STEPS),
)
def compiled_without_random_state(prepare: Prepare) -> list[float]:
    """The training step of mlx-examples' speech commands, at learning rate 0."""
    x = mx.random.normal((BATCH, 40), key=mx.random.key(0))
    y = mx.random.randint(0, 35, (BATCH,), key=mx.random.key(1))
    layers = [nn.Linear(40, WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(WIDTH, 35)]
    model = prepare(nn.Sequential(*layers))
    optimizer = mlx.optimizers.SGD(learning_rate=0.0, momentum=0.9)
    state = [model.state, optimizer.state]

    def loss(model: nn.Module) -> mx.array:
        return nn.losses.cross_entropy(model(x), y, reduction="mean")

    @partial(mx.compile, inputs=state, outputs=state)
    def step() -> mx.array:
        value, gradients = nn.value_and_grad(model, loss)(model)
        optimizer.update(model, gradients)
        return value

    return [len({step().item() for _ in range(STEPS)})]


@fault(
    f"`nn.TransformerEncoder(..., checkpoint=True)`, {RATES_SHOWN}", ERROR, "0", "{:.2g}"
)
def transformer_encoder(prepare: Prepare) -> list[float]:
    """One step of a ``TransformerEncoder`` that was built with ``checkpoint=True``."""
    x, y = mx.random.normal((2, BATCH, LENGTH, WIDTH), key=mx.random.key(0))

    def loss(encoder: nn.Module) -> mx.array:
        return (encoder(x, None) - y).square().mean()

    def error(p: float) -> float:
        encoder = nn.TransformerEncoder(DEPTH, WIDTH, HEADS, dropout=p, checkpoint=True)
        prepare(encoder).checkpoint = False
        return error_of_gradient(encoder, loss, encoder_checkpointed)

    return [error(p) for p in RATES]


@fault(f"`mx.vmap` over {MEMBERS} members", "different masks", str(MEMBERS))
def vmap_over_an_ensemble(prepare: Prepare) -> list[float]:
    model = prepare(nn.Sequential(nn.Dropout(0.5)))
    members = mx.vmap(lambda x: model(x))(mx.ones((MEMBERS, BATCH, WIDTH)))
    return [len({str(member.tolist()) for member in members})]


def drop(layer: nn.Module, start: int, stop: int) -> mx.array:
    """Masks some of a batch's examples, with chandrop by a key for each of them."""
    x = mx.ones((stop - start, WIDTH))
    if not get_keys(layer):
        return layer(x)
    return layer(x, key=example_keys(mx.random.key(0), stop - start, offset=start))


def alike(a: mx.array, b: mx.array) -> list[float]:
    """How many examples have the same mask in both."""
    return [(a == b).all(axis=-1).sum().item()]


@fault(
    f"a batch of {EXAMPLES} cut in two",
    "examples that keep the mask of the whole batch",
    str(EXAMPLES),
)
def batch_cut_in_two(prepare: Prepare) -> list[float]:
    layer = prepare(nn.Dropout(0.5))
    mx.random.seed(0)
    whole = drop(layer, 0, EXAMPLES)
    mx.random.seed(0)
    halves = [drop(layer, 0, EXAMPLES // 2), drop(layer, EXAMPLES // 2, EXAMPLES)]
    return alike(mx.concatenate(halves), whole)


@fault(
    f"two ranks seeded alike, {EXAMPLES} examples each",
    "examples with the mask of the other rank",
    "0",
)
def ranks_seeded_alike(prepare: Prepare) -> list[float]:
    layer = prepare(nn.Dropout(0.5))
    mx.random.seed(0)
    first = drop(layer, 0, EXAMPLES)
    mx.random.seed(0)
    return alike(first, drop(layer, EXAMPLES, 2 * EXAMPLES))


def compiled_after_relu() -> Pair:
    """How long a mask after an activation takes, with the activation."""
    x = mx.random.normal((32, 32, 32, 64), key=mx.random.key(0))

    def compiled(prepare: Prepare) -> Call:
        model = prepare(nn.Sequential(nn.ReLU(), nn.Dropout2d(0.5)))
        state = [model.state, mx.random.state]
        step = mx.compile(lambda x: model(x), inputs=state, outputs=state)
        return lambda: mx.eval(step(x), state)

    calls = {"mlx.nn": compiled(as_it_is), "chandrop": compiled(convert)}
    seconds = medians(calls, BLOCKS)
    theirs, ours = ([seconds[name] * 1e3] for name in calls)
    return theirs, ours


RELU = "`mx.compile` of relu and `Dropout2d` on the CPU, 32x32x32x64"
FAULTS.append(Fault(RELU, "time of a call", "", "{:.3g} ms", compiled_after_relu))

# The table.


def cell(fault: Results, by: str) -> str:
    figures = fault[by]
    if isinstance(figures, str):
        return f"an error ({figures.partition(':')[0]})"
    return ", ".join(fault["form"].format(figure) for figure in figures)


def faults_table(results: Results, with_right: bool) -> str:
    rows = [
        [
            fault["use"],
            fault["measured"],
            *[fault["right"]] * with_right,
            cell(fault, "mlx.nn"),
            cell(fault, "chandrop"),
        ]
        for fault in results["faults"]
    ]
    headers = ["use", "measured", *["right"] * with_right, "`mlx.nn`", "chandrop"]
    return table(rows, headers)


def measure(arguments: argparse.Namespace) -> Results:
    there = [None]
    if MLX_LM:
        there += ["mlx-lm", *["training"] * arguments.train]
    else:
        print("mlx-lm is not installed: what it does is left out.")
    # All faults but the last are the same on any device; the last is the CPU's.
    mx.set_default_device(mx.cpu)
    faults = [fault for fault in FAULTS if fault.needs in there]
    return {"faults": [fault.results() for fault in tqdm(faults, desc="measuring")]}


def page(results: Results) -> list[str]:
    return [
        "`python benchmarks/silent_faults.py` wrote this page. chandrop's figures are "
        "those of the same model after `convert(model)`; where a batch is cut or spread "
        "over ranks, its layers are given a key for each example. A gradient is held "
        "against that of the same masks without checkpointing, ||g - g'|| / ||g'||; the "
        "losses are the same. All models are small and have random weights. The test "
        "losses, if any, are of a language in which every token has one likely successor.",
        faults_table(results, with_right=True),
    ]


def plot(results: Results) -> Figure | None:
    """The test losses after training, if it was measured."""
    losses = [
        {"checkpointing": checkpointing, "dropout": dropout, "loss": loss}
        for checkpointing in ("without", "with")
        for fault in results["faults"]
        if fault["use"] == after_training(checkpointing)
        for dropout in ("mlx.nn", "chandrop")
        for loss in fault[dropout]
    ]
    return plots.test_losses(pd.DataFrame(losses)) if losses else None


def short(results: Results) -> list[str]:
    return [faults_table(results, with_right=False)]


def main() -> None:
    parser = report.parser(__doc__, "silent_faults")
    parser.add_argument("--train", action="store_true", help="add the training runs")
    report.run(
        parser.parse_args(),
        ["chandrop", "mlx", *["mlx-lm"] * MLX_LM],
        measure,
        "What dropout gets wrong in MLX without a word",
        page,
        plot,
        short=short,
    )


if __name__ == "__main__":
    main()
