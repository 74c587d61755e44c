"""functional_call: a pure call that leaves the model as it was."""

from functools import partial
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from models import MODELS, BatchNormNetwork, Conv2dNetwork, InDicts, recorded
from subjects import assert_same, assert_trees_close

from chandrop.nn import Dropout, Dropout2d, functional_call, rekey, stack_parameters
from chandrop.random import example_keys
from chandrop.thin import ThinDropout

each = pytest.mark.parametrize("subject", MODELS, ids=lambda s: s.name)


def everything(model):
    """All arrays and modes, as they can be compared later."""
    arrays = [(name, np.array(a)) for name, a in tree_flatten(model.state)]
    modes = [(name, m.training) for name, m in model.named_modules()]
    return arrays, modes


def assert_untouched(model, before):
    """Also: nothing in it belongs to a trace, or it could not be evaluated."""
    arrays, modes = everything(model)
    assert modes == before[1]
    for (name, now), (name_before, then) in zip(arrays, before[0], strict=True):
        assert name == name_before
        np.testing.assert_array_equal(now, then)


def doubled(model):
    return tree_map(lambda a: a * 2, model.parameters())


@each
@pytest.mark.parametrize("training", [True, False])
def test_all_is_restored(subject, training, key):
    model, x = subject.make().train(training), subject.x()
    before = everything(model)
    objects = [id(a) for _, a in tree_flatten(model.state)]
    functional_call(model, doubled(model), x, key=key, dropout=True, return_state=True)
    assert_untouched(model, before)
    assert [id(a) for _, a in tree_flatten(model.state)] == objects


@each
def test_all_is_restored_under_every_transform(subject, key):
    model, x = subject.make(), subject.x()
    before = everything(model)
    keys = mx.random.split(key, 6).reshape(2, 3, 2)

    def loss(parameters, key):
        return functional_call(model, parameters, x, key=key).sum()

    def gradients(parameters, keys):
        losses = mx.vmap(mx.vmap(partial(loss, parameters)))
        return mx.value_and_grad(lambda p: losses(keys).sum() + loss(p, key))(parameters)

    mx.compile(gradients)(model.parameters(), keys)
    assert_untouched(model, before)
    if not subject.convolutions:
        over_keys = mx.vmap(mx.grad(loss), in_axes=(None, 0))
        mx.compile(over_keys)(model.parameters(), keys[0])
        assert_untouched(model, before)
    mx.eval(model(x))


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm(3)
        self.dropout = Dropout()

    def __call__(self, x):
        self.cache = self.dropout(self.norm(x))
        self.calls = [self.cache]
        self.norm.eval()
        raise RuntimeError("the model failed")


@pytest.mark.parametrize("transform", [lambda f: f, mx.grad, mx.compile, mx.vmap])
def test_all_is_restored_if_the_call_raises(transform, key):
    model = Failing()
    before = everything(model)

    def call(x):
        return functional_call(model, doubled(model), x, key=key)

    with pytest.raises(RuntimeError, match="the model failed"):
        transform(call)(mx.ones((2, 4, 3)))
    assert_untouched(model, before)
    assert not hasattr(model, "cache")


def test_what_refers_to_a_part_of_the_model_sees_it_restored(key):
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.caches = [mx.zeros(2), {"mean": mx.zeros(2)}]
            self.hidden = (mx.zeros(2), 0)
            self.calls = 0
            self.dropout = Dropout()

        def __call__(self, x):
            self.caches[0] = x
            self.caches.append(x)
            self.caches[1]["mean"] = self.dropout(x)
            self.hidden = (x, 1)
            self.calls += 1
            return x

    model = Stateful()
    caches, mean = model.caches, model.caches[1]
    mx.vmap(lambda x: functional_call(model, {}, x, key=key))(mx.ones((3, 2)))
    assert model.caches is caches
    assert len(caches) == 2
    assert caches[1] is mean
    assert_same(caches[0], mx.zeros(2))
    assert_same(mean["mean"], mx.zeros(2))
    assert_same(model.hidden[0], mx.zeros(2))
    assert model.calls == 0


class InPlace(nn.Module):
    """Changes its arrays in place, as caches and counters do."""

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(3, 3), Dropout()
        self._hits, self.count = mx.zeros(3), mx.zeros(2)
        self.freeze(keys=["count"], recurse=False)

    def __call__(self, x):
        y = self.linear(x)
        self._hits += mx.stop_gradient(y).sum(0)
        self.count[0] = self.count[0] + mx.abs(x).sum()
        return self.dropout(y) * self.count[0]


@pytest.mark.parametrize(
    "transform", [lambda f: f, mx.compile, mx.vmap, lambda f: mx.vmap(mx.compile(f))]
)
def test_arrays_that_are_changed_in_place_are_restored(transform, key):
    model = InPlace()
    before, parameters = everything(model), doubled(model)
    given = [np.array(a) for _, a in tree_flatten(parameters)]

    def call(x):
        return functional_call(model, parameters, x, key=key, return_state=True)

    y, state = transform(call)(mx.ones((2, 4, 3)))
    mx.eval(y, state)
    assert_untouched(model, before)
    for array, (_, now) in zip(given, tree_flatten(parameters), strict=True):
        np.testing.assert_array_equal(array, now)
    assert mx.all(state["count"].reshape(-1, 2)[:, 0] > 0)


def test_what_the_model_returns_is_not_restored_with_it(key):
    class Returning(nn.Module):
        def __init__(self):
            super().__init__()
            self.cache = {"h": mx.zeros(2), "all": [mx.zeros(2)]}
            self.dropout = Dropout()

        def __call__(self, x):
            self.cache["h"] = self.cache["h"] + x
            self.cache["all"].append(x)
            return x, self.cache

    model = Returning()

    def loss(x):
        _, cache = functional_call(model, {}, x, key=key)
        assert len(cache["all"]) == 2
        return (cache["h"] * cache["all"][1]).sum()

    assert_same(mx.grad(loss)(mx.ones(2)), 2 * mx.ones(2))
    assert len(model.cache["all"]) == 1


def test_a_module_that_the_model_returns_is_that_module(key):
    """Though it is a dict."""

    class Returning(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = Dropout()

        def __call__(self, x):
            return self.dropout(x), self.dropout

    model = Returning()
    assert functional_call(model, {}, mx.ones(2), key=key)[1] is model.dropout


def test_what_is_frozen_in_the_call_is_not_frozen_after_it(key):
    class Freezing(nn.Sequential):
        def __call__(self, x):
            self.layers[0].freeze()
            return super().__call__(x)

    model = Freezing(nn.Linear(2, 2), Dropout())
    for _ in range(2):
        functional_call(model, {}, mx.ones((1, 2)), key=key)
        assert "weight" in model.trainable_parameters()["layers"][0]


@each
def test_it_is_the_call_of_a_model_with_these_parameters(subject, key):
    model, other, x = subject.make().eval(), subject.build().eval(), subject.x()
    rekey(other, key)
    assert_same(functional_call(model, other.parameters(), x, key=key), other(x))


def test_a_part_of_the_parameters(key):
    model, x = Conv2dNetwork().eval(), mx.ones((2, 6, 5, 2))
    head = {"head": {"weight": mx.ones((2, 8))}}
    expected = Conv2dNetwork().eval()
    expected.update(model.parameters())
    expected.update(head)
    assert_same(functional_call(model, head, x), expected(x))
    model.freeze()
    model.head.unfreeze()
    assert_same(functional_call(model, model.trainable_parameters(), x), model(x))
    gradients = mx.grad(lambda p: functional_call(model, p, x).sum())(
        model.trainable_parameters()
    )
    assert {name for name, _ in tree_flatten(gradients)} == {"head.weight", "head.bias"}


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Dropout(0.5), Dropout(0.5)
        self.norm = nn.BatchNorm(4)

    def __call__(self, x, scale=1.0):
        return scale * self.norm(self.b(self.a(x)))


def paths_that_drop(model, **how):
    with recorded() as draws:
        functional_call(model, {}, mx.ones((3, 4)), **how)
    return [d.path for d in draws if mx.any(d.mask == 0)]


def test_which_layers_drop(key):
    model = Layers().eval()
    call = partial(paths_that_drop, model, key=key)
    assert call() == []
    assert call(dropout=False) == []
    assert call(dropout=True) == ["a", "b"]
    assert call(dropout=lambda path, layer: path == "b") == ["b"]
    assert call(dropout=lambda path, layer: layer is model.a) == ["a"]
    with pytest.raises(ValueError, match=r'chose no layer.*are: "a", "b"'):
        call(dropout=lambda path, layer: path == "c")
    model.a.train()
    assert call() == ["a"]
    assert call(dropout=False) == []
    assert not model.b.training
    assert model.a.training


def test_batch_norm_stays_in_eval_mode(key):
    model, x = Layers().eval(), mx.random.normal((8, 4))
    model.norm.running_mean = mx.ones(4)
    with recorded() as draws:
        y = functional_call(model, {}, x, key=key, dropout=True)
    masked = x * draws[0].mask * draws[1].mask
    assert mx.allclose(y, (masked - 1) / mx.sqrt(mx.array(1 + 1e-5)))


def test_other_arguments_reach_the_model(key):
    model, x = Layers().eval(), mx.ones((3, 4))
    assert_same(functional_call(model, {}, x, 2.0), model(x, 2.0))
    assert_same(functional_call(model, {}, x, scale=3.0, key=key), model(x, scale=3.0))


def test_the_state_that_the_call_leaves(key):
    model, reference = BatchNormNetwork(), BatchNormNetwork()
    reference.update(model.parameters())
    x = mx.random.normal((8, 6))
    y, state = functional_call(model, model.parameters(), x, key=key, return_state=True)
    reference.dropout.eval()
    reference(x)
    for name, array in tree_flatten(reference.parameters()):
        assert_same(dict(tree_flatten(state))[name], array)
    assert not mx.array_equal(model.norm.running_mean, state["norm"]["running_mean"])
    assert y.shape == (8, 2)
    _, state = functional_call(model, {}, x, key=key, return_state=True)
    assert mx.array_equal(state["norm"]["running_mean"], reference.norm.running_mean)


def test_the_state_has_the_names_of_the_parameters(key):
    class Penalized(nn.Sequential):
        def __call__(self, x):
            y = super().__call__(x)
            self.penalty = (y**2).sum()
            return y

    model = Penalized(nn.Linear(2, 2), Dropout())
    _, state = functional_call(model, {}, mx.ones((1, 2)), key=key, return_state=True)
    model.update(state)
    assert dict(tree_flatten(state)).keys() == {"layers.0.weight", "layers.0.bias"}


def hidden_in_a_function():
    dropout = Dropout()
    return nn.Sequential(lambda x: dropout(x), Dropout()), dropout


def hidden_in_an_object():
    model = nn.Sequential(Dropout())
    model.settings = SimpleNamespace(dropout=Dropout())
    model.layers.append(lambda x: model.settings.dropout(x))
    return model, model.settings.dropout


@pytest.mark.parametrize("build", [hidden_in_a_function, hidden_in_an_object])
def test_layers_that_are_not_found_cannot_draw(build, key):
    model, dropout = build()
    before = mx.array(dropout._key)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"A Dropout draws by its own key"):
            functional_call(model, {}, mx.ones((1, 2)), key=key)
    assert_same(dropout._key, before)
    model(mx.ones((1, 2)))
    dropout.eval()
    functional_call(model, {}, mx.ones((1, 2)), key=key)


def test_a_layer_that_is_not_found_and_has_a_traced_rate(key):
    """Its message does not print the rate, which has no value yet."""
    model, dropout = hidden_in_a_function()

    def member(rate):
        dropout.p = rate
        return functional_call(model, {}, mx.ones((1, 2)), key=key)

    with pytest.raises(ValueError, match="A Dropout draws by its own key"):
        mx.vmap(member)(mx.array([0.1, 0.2]))


def test_a_call_within_a_call(key):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.dropout = InDicts(), Dropout()

        def __call__(self, x):
            y = functional_call(self.inner, {}, x, key=mx.random.key(1))
            return self.dropout(self.inner(y[:, :6])), y

    model, x = Outer(), mx.ones((4, 6))
    before = everything(model)
    y, inner = functional_call(model, {}, x, key=key)
    assert_same(functional_call(model.inner, {}, x, key=mx.random.key(1)), inner)
    assert_same(functional_call(model, {}, x, key=key)[0], y)
    assert_untouched(model, before)


class Generating(Layers):
    def __call__(self, x):
        yield self.a(x)


class Mapping(Layers):
    def __call__(self, x):
        return {"outputs": map(self.a, [x, x])}


class Awaited(Layers):
    async def __call__(self, x):
        return self.a(x)


class Streaming(Layers):
    async def __call__(self, x):
        yield self.a(x)


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (Generating, "generator"),
        (Mapping, "map"),
        (Awaited, "coroutine"),
        (Streaming, "async_generator"),
    ],
)
def test_outputs_that_are_computed_after_the_call(build, kind, key):
    """They would be computed by the model's own parameters and keys."""
    model = build()
    before = everything(model)
    with pytest.raises(TypeError, match=rf"output of type {kind}, .*return a list"):
        functional_call(model, {}, mx.ones((3, 4)), key=key)
    assert_untouched(model, before)


def test_names_of_the_models_own_arguments(key):
    class Named(Layers):
        def __call__(self, model, parameters):
            return super().__call__(model * parameters)

    x = mx.ones((3, 4))
    y = functional_call(Named().eval(), {}, model=x, parameters=2.0)
    assert y.shape == x.shape


def test_a_layer_without_dropping_needs_no_key():
    model = nn.Sequential(nn.Linear(4, 4), Dropout(0.0))
    x = mx.ones((2, 4))
    assert_same(functional_call(model, {}, x), model.layers[0](x))
    model = nn.Sequential(nn.Linear(4, 4), Dropout(0.5))
    assert_same(functional_call(model, {}, x, dropout=False), model.layers[0](x))


def test_no_key_where_a_layer_would_drop():
    model = InDicts()
    for how in ({}, {"dropout": True}):
        with pytest.raises(ValueError, match="draw the same") as error:
            functional_call(model, {}, mx.ones((2, 6)), **how)
        assert '"dropouts.first", "dropouts.rest.0.last"' in str(error.value)
    model = nn.Sequential(Dropout(mx.array(0.0)))
    with pytest.raises(ValueError, match=r'would draw: "layers\.0"'):
        functional_call(model, {}, mx.ones(3))


def test_unknown_parameters(key):
    model = InDicts()
    unknown = {"linears": {"first": {"scale": mx.ones(1)}}, "head": [mx.ones(1)]}
    with pytest.raises(ValueError, match=r'"head\.0", "linears\.first\.scale"'):
        functional_call(model, unknown, mx.ones((2, 6)), key=key)
    with pytest.raises(TypeError, match=r'"linears\.first\.bias" of type float'):
        functional_call(model, {"linears": {"first": {"bias": 1.0}}}, mx.ones((2, 6)))
    with pytest.raises(ValueError, match='that InDicts does not have: "linears"'):
        functional_call(model, {"linears": mx.ones(2)}, mx.ones((2, 6)))


def test_a_misspelt_parameter():
    with pytest.raises(ValueError, match=r'Did you mean "linears\.first\.weight"\?'):
        functional_call(
            InDicts(), {"linears": {"first": {"wieght": mx.ones(1)}}}, mx.ones(6)
        )


def test_stacked_parameters_without_vmap(key):
    model = InDicts()
    stacked = stack_parameters([InDicts() for _ in range(3)])
    with pytest.raises(ValueError, match=r"\(3, 8, 6\), .* \(8, 6\).*mx\.vmap"):
        functional_call(model, stacked, mx.ones((2, 6)), key=key)


@pytest.mark.parametrize("shape", [(8, 5), (7, 6), (6, 8), (1, 6), (8, 6, 1), (7,)])
def test_a_parameter_of_another_shape(shape, key):
    parameters = {"linears": {"first": {"weight": mx.ones(shape)}}}
    numbers = ", ".join(map(str, shape))
    message = rf'"linears\.first\.weight" of shape \({numbers},?\), .* has \(8, 6\)\.'
    with pytest.raises(ValueError, match=message):
        functional_call(InDicts(), parameters, mx.ones((2, 6)), key=key)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_model_may_hold_the_parameters_of_an_ensemble(axis, key):
    """The members are then called with other shapes than the model's."""
    ensemble = nn.Sequential(nn.Linear(6, 4, bias=False), Dropout())
    weight = mx.stack([mx.random.normal((4, 6), key=key)] * 3, axis=axis)
    ensemble.layers[0].weight = weight

    def member(weight):
        parameters = {"layers": [{"weight": weight}, {}]}
        return functional_call(ensemble, parameters, mx.ones((2, 6)), key=key)

    y = mx.vmap(member, in_axes=axis)(weight)
    assert y.shape == (3, 2, 4)
    assert_same(y[0], y[2])


def test_names_with_dots(key):
    model = nn.Sequential(nn.Linear(2, 2), Dropout())
    model["a.b"] = mx.ones(1)
    functional_call(model, {"a.b": mx.ones(1)}, mx.ones((1, 2)), key=key)


def test_parameters_that_are_no_tree(key):
    model = InDicts()
    flat = dict(tree_flatten(model.parameters()))
    with pytest.raises(ValueError, match="tree_unflatten"):
        functional_call(model, flat, mx.ones((2, 6)), key=key)
    for wrong in (model, None, mx.ones(3), [mx.ones(3)]):
        with pytest.raises(TypeError, match=r"model\.parameters\(\)"):
            functional_call(model, wrong, mx.ones((2, 6)), key=key)


def test_a_model_without_dropout_layers(key):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
    for how in ({"key": key}, {"dropout": True}, {"dropout": lambda path, layer: True}):
        with pytest.raises(ValueError, match=r"chandrop\.nn\.convert\(model\)"):
            functional_call(model, {}, mx.ones((2, 4)), **how)
    assert functional_call(model, {}, mx.ones((2, 4))).shape == (2, 4)


def test_layers_of_mlx_nn_that_would_drop(key):
    model = nn.Sequential(Dropout(0.5), nn.Dropout(0.5), nn.Dropout(0.0))
    with pytest.raises(ValueError, match=r'mlx\.nn that would drop: "layers\.1"\.'):
        functional_call(model, {}, mx.ones((2, 4)), key=key)
    model.layers[1].eval()
    functional_call(model, {}, mx.ones((2, 4)), key=key)


def test_keys_that_do_not_match_the_batch(key):
    model = InDicts()
    with pytest.raises(ValueError, match=r'at "dropouts\.first": .*5 keys.*\(4, 8\)'):
        functional_call(model, {}, mx.ones((4, 6)), key=example_keys(key, 5))
    with pytest.raises(ValueError, match=r"\(2, 3, 2\)"):
        functional_call(model, {}, mx.ones((4, 6)), key=mx.zeros((2, 3, 2), mx.uint32))


def test_inputs_that_a_layer_does_not_take(key):
    model = nn.Sequential(Dropout2d())
    with pytest.raises(ValueError, match=r'at "layers\.0": .*2 dimensions'):
        functional_call(model, {}, mx.ones((4, 6)), key=key)
    with pytest.raises(TypeError, match=r'at "layers\.0": .*int32'):
        functional_call(model, {}, mx.ones((4, 6, 6, 2), mx.int32), key=key)


@pytest.mark.parametrize("wrong", [0.5, 1, "all", np.True_])
def test_what_is_no_choice_of_layers(wrong, key):
    with pytest.raises(TypeError, match="True, False, None"):
        functional_call(InDicts(), {}, mx.ones((4, 6)), key=key, dropout=wrong)


def test_what_is_no_model_and_no_key():
    with pytest.raises(TypeError, match="model of type function"):
        functional_call(lambda x: x, {}, mx.ones(3))
    with pytest.raises(TypeError, match=r"mx\.random\.key\(3\)"):
        functional_call(InDicts(), {}, mx.ones((4, 6)), key=3)


# Not by Adam, which blows up what rounding leaves of a gradient that is zero: that of the
# bias before BatchNorm.
def train_alone(member, keys, x, y):
    optimizer = optim.SGD(1e-2, momentum=0.9)

    def loss(parameters, key):
        output, state = functional_call(member, parameters, x, key=key, return_state=True)
        return ((output - y) ** 2).mean(), state

    for key in keys:
        parameters = member.trainable_parameters()
        (_, state), gradients = mx.value_and_grad(loss)(parameters, key)
        member.update(state)
        optimizer.update(member, gradients)


@pytest.mark.parametrize("build", [Conv2dNetwork, BatchNormNetwork])
def test_an_ensemble_trained_in_one_step(build, key):
    shape = (4, 6, 5, 2) if build is Conv2dNetwork else (4, 6)
    x, y = mx.random.normal(shape, key=key), mx.ones((4, 2))
    mx.random.seed(1)
    members = [build() for _ in range(3)]
    keys = mx.random.split(key, 3 * 3).reshape(3, 3, 2)
    ensemble = build()
    ensemble.update(stack_parameters(members))
    optimizer = optim.SGD(1e-2, momentum=0.9)
    optimizer.init(ensemble.trainable_parameters())
    state = [ensemble.state, optimizer.state]

    def loss(ensemble, keys):
        def member(parameters, key):
            return functional_call(ensemble, parameters, x, key=key, return_state=True)

        outputs, states = mx.vmap(member)(ensemble.parameters(), keys)
        ensemble.update(states)
        return ((outputs - y) ** 2).mean((1, 2)).sum()

    def step(keys):
        value, gradients = nn.value_and_grad(ensemble, loss)(ensemble, keys)
        optimizer.update(ensemble, gradients)
        return value

    # One of the two is enough for the C++ compiler, which takes long.
    if build is BatchNormNetwork:
        step = mx.compile(step, inputs=state, outputs=state)
    for step_keys in keys:
        mx.eval(step(step_keys), state)
    for i, member in enumerate(members):
        train_alone(member, keys[:, i], x, y)
        one = tree_map(lambda array, i=i: array[i], ensemble.parameters())
        assert_trees_close(one, member.parameters(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [ThinDropout(0.1), Dropout(0.0)])
def test_layers_that_keep_all_count_as_called(layer, key):
    model = nn.Sequential(nn.Linear(4, 4), layer)
    x = mx.ones((4, 4))
    y = functional_call(model, {}, x, key=key, dropout=True)
    assert_same(y, model.layers[0](x))
