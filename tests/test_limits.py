"""What MLX cannot do, so that a newer one which can shows."""

import signal
import subprocess
import sys

import mlx.core as mx
import mlx.nn as nn
import pytest
from models import MODELS

from chandrop.functional import dropout2d
from chandrop.nn import Dropout, checkpoint, functional_call, stack_parameters


def test_random_operations_without_shapes(compiles, key):
    compiled = mx.compile(lambda x: dropout2d(x, 0.5, key), shapeless=True)
    with pytest.raises(ValueError, match="RandomBits"):
        mx.eval(compiled(mx.ones((2, 3, 3, 4))), compiled(mx.ones((4, 3, 3, 4))))


def test_vmap_of_grad_through_stacked_convolutions(key):
    weights = mx.random.normal((3, 2, 3, 3, 2), key=key)
    x = mx.random.normal((1, 6, 6, 2), key=key)
    keys = mx.random.split(key, 3)

    def loss(weight, key):
        return mx.conv2d(dropout2d(mx.conv2d(x, weight), 0.5, key), weight).sum()

    with pytest.raises((ValueError, RuntimeError), match=r"AsStrided|Pad"):
        mx.eval(mx.vmap(mx.grad(loss))(weights, keys))
    gradients = mx.grad(lambda weights: mx.vmap(loss)(weights, keys).sum())(weights)
    for i in range(3):
        assert mx.allclose(
            gradients[i], mx.grad(loss)(weights[i], keys[i]), rtol=1e-4, atol=1e-4
        )


def by_name(name):
    return next(subject for subject in MODELS if subject.name == name)


def over_parameters(subject, key, function):
    model, x = subject.make(), subject.x()
    keys = mx.random.split(key, 2)

    def call(parameters, key):
        return functional_call(model, parameters, x, key=key).sum()

    parameters = stack_parameters([subject.build() for _ in keys])
    mx.eval(mx.vmap(function(call))(parameters, keys))


def test_vmap_over_the_weights_of_a_3d_convolution(key):
    with pytest.raises(ValueError, match="groups"):
        over_parameters(by_name("Conv3dNetwork"), key, lambda call: call)


@pytest.mark.parametrize("name", ["Conv1dNetwork", "Conv2dNetwork"])
def test_vmap_of_grad_through_convolutions_of_an_ensemble(name, key):
    over_parameters(by_name(name), key, lambda call: call)
    with pytest.raises((ValueError, RuntimeError), match=r"AsStrided|Pad"):
        over_parameters(by_name(name), key, mx.grad)


@pytest.mark.parametrize(
    "subject", [s for s in MODELS if s.convolutions], ids=lambda s: s.name
)
def test_jvp_of_a_convolution(subject, key):
    model, x = subject.make(), subject.x()

    def call(x):
        return functional_call(model, {}, x, key=key)

    with pytest.raises((ValueError, RuntimeError), match="Convolution"):
        mx.eval(mx.jvp(call, [x], [x]))


def test_vmap_of_grad_of_a_checkpoint(key):
    model = nn.Sequential(nn.Linear(3, 3), Dropout())

    def loss(x):
        return checkpoint(model)(x).sum()

    with pytest.raises((ValueError, RuntimeError), match="Depends"):
        mx.eval(mx.vmap(mx.grad(loss))(mx.ones((2, 3))))


def test_export_of_a_checkpointed_function(key, tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), Dropout())
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)export|serializ"):
        mx.export_function(
            str(tmp_path / "f.mlxfn"),
            mx.grad(lambda x: checkpoint(model)(x).sum()),
            mx.ones(3),
        )


def test_export_of_a_tree_among_several_arguments(key, tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), Dropout())

    def call(parameters, x, key):
        return functional_call(model, parameters, x, key=key)

    with pytest.raises((ValueError, RuntimeError), match=r"(?i)argument|input"):
        mx.export_function(
            str(tmp_path / "f.mlxfn"), call, model.parameters(), mx.ones(3), key
        )


def test_vmap_of_addmm_where_only_what_is_added_is_batched(key):
    a, b, c = mx.ones((2, 3)), mx.ones((3, 4)), mx.ones((5, 2, 4))
    with pytest.raises(ValueError, match="addmm"):
        mx.eval(mx.vmap(lambda c: mx.addmm(c, a, b))(c))
    assert mx.vmap(lambda a, c: mx.addmm(c, a, b))(mx.stack([a] * 5), c).shape == c.shape


def test_an_array_that_is_captured_and_an_input(compiles):
    weight = mx.ones((3,))
    mx.eval(weight)
    with pytest.raises(ValueError, match="uncaptured"):
        mx.eval(mx.compile(lambda other: other * weight)(weight))


def test_an_exported_function_loses_its_stop_gradient(tmp_path):
    """So the gradient for an array of rates is wrong there: docs/export.md."""
    path = str(tmp_path / "f.mlxfn")
    mx.export_function(path, lambda x: mx.stop_gradient(x) * x, mx.array(2.0))
    imported = mx.import_function(path)
    assert mx.grad(lambda x: imported(x)[0])(mx.array(2.0)).item() == 4


@pytest.mark.parametrize(
    ("draw", "ends"),
    [
        ("mx.random.bernoulli(0.5, (4,), key=key)", True),
        ("mx.random.split(key)", True),
        ("key * 2", False),
    ],
)
def test_vmap_of_random_functions_over_0_members(draw, ends):
    """MLX divides by their number, which ends the process."""
    code = (
        "import mlx.core as mx\n"
        f"y = mx.vmap(lambda key: {draw})(mx.zeros((0, 2), dtype=mx.uint32))\n"
        "mx.eval(y)"
    )
    finished = subprocess.run([sys.executable, "-c", code], check=False)
    assert finished.returncode == (-signal.SIGFPE if ends else 0)
