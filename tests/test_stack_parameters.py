"""stack_parameters: one tree for all members of an ensemble."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten, tree_map
from models import MODELS
from subjects import assert_same

from chandrop.nn import functional_call, rekey, stack_parameters


@pytest.mark.parametrize("subject", MODELS, ids=lambda s: s.name)
def test_a_member_is_what_it_was(subject, key):
    members = [subject.build().eval() for _ in range(3)]
    stacked = stack_parameters(members)
    for i, member in enumerate(members):
        one = tree_map(lambda array, i=i: array[i], stacked)
        for (name, array), (expected_name, expected) in zip(
            tree_flatten(one), tree_flatten(member.parameters()), strict=True
        ):
            assert name == expected_name
            assert_same(array, expected)
        x = subject.x()
        rekey(member, key)
        assert_same(functional_call(members[0], one, x, key=key), member(x))


def test_one_member_and_any_sequence():
    member = nn.Linear(2, 3)
    stacked = stack_parameters(iter((member,)))
    assert stacked["weight"].shape == (1, 3, 2)


def test_layers_without_parameters_may_differ():
    members = [nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Sequential(nn.Linear(2, 3))]
    assert stack_parameters(members)["layers"][0]["weight"].shape == (2, 3, 2)


def narrow(model):
    model.layers[0].weight = mx.ones((3, 3))


def without_bias(model):
    del model.layers[0]["bias"]


def with_scale(model):
    model.layers[1].scale = mx.ones(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            narrow,
            r'"layers\.0\.weight": models\[0\] has .*\(3, 2\), models\[1\] .*\(3, 3\)',
        ),
        (without_bias, r'"layers\.0\.bias": models\[0\] .*\(3,\), models\[1\] has none'),
        (with_scale, r'"layers\.1\.scale": models\[0\] has none, models\[1\] .*\(1,\)'),
        (
            lambda model: model.set_dtype(mx.float16),
            r"float32 .* models\[1\] has .*float16",
        ),
    ],
    ids=["shape", "missing", "unknown", "dtype"],
)
def test_models_that_differ(change, said):
    members = [nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)) for _ in range(2)]
    change(members[1])
    with pytest.raises(ValueError, match=said):
        stack_parameters(members)


def test_what_cannot_be_stacked():
    with pytest.raises(ValueError, match="Received no models"):
        stack_parameters([])
    with pytest.raises(TypeError, match=r"models\[1\] of type dict"):
        stack_parameters([nn.Linear(2, 2), {}])
    with pytest.raises(TypeError, match=r"models\[0\] that is the class Linear itself"):
        stack_parameters([nn.Linear])
    for wrong in (nn.Linear(2, 2), nn.Linear, 3, None):
        with pytest.raises(TypeError, match=r"Received models .*Expected a list of models"):
            stack_parameters(wrong)
