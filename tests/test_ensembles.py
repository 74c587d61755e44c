"""predict of several models, and of whole networks, against plain loops over them."""

import copy
import warnings

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from subjects import assert_same, normal

from chandrop.functional import dropout
from chandrop.nn import Dropout, KeyedLayer, convert, functional_call, get_keys
from chandrop.random import example_keys
from chandrop.thin import ThinDropout, ThinSequential
from chandrop.uncertainty import classify, predict, regress, sample

each_batch = pytest.mark.parametrize("batch_size", [None, 1, 3, 7])
each_chunk = pytest.mark.parametrize("chunk", [None, 1, 4])


class Pair(nn.Module):
    """Means and variances."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def __call__(self, x):
        y = self.model(x)
        return y, mx.exp(y)


class Jitter(KeyedLayer):
    """Draws in eval mode, too."""

    _draws_in_eval_mode = True

    def draw(self, x, key):
        return x + 0.1 * mx.random.normal(x.shape, key=key)

    def __call__(self, x, *, key=None):
        return self._call(self._draw_examples, x, key)


def network(layer, seed, outputs=3):
    mx.random.seed(seed)
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm(16), nn.ReLU(), layer, nn.Linear(16, outputs)
    )


@pytest.fixture
def models():
    """Of mlx.nn's layers and ours, in any mode."""
    first, second, third = (
        network(layer, seed)
        for seed, layer in enumerate([nn.Dropout(0.5), Dropout(0.3), nn.Dropout(0.1)])
    )
    for model in (first, second, third):
        model.layers[1].running_mean = normal((16,))
    second.eval()
    third.layers[3].eval()
    return [first, second, third]


@pytest.fixture
def keys(key):
    return mx.random.split(key, 5)


@pytest.fixture
def x():
    return normal((7, 4))


def loop(models, keys, *inputs, consistent=True):
    """The samples of all models and keys, one after another."""
    samples = []
    for model in models:
        ours = convert(copy.deepcopy(model)).eval()
        for key in [None] if keys is None else keys:
            if key is not None:
                key = key[None] if consistent else example_keys(key, len(inputs[0]))
            on = key is not None
            samples.append(functional_call(ours, {}, *inputs, key=key, dropout=on))
    if isinstance(samples[0], tuple):
        return [mx.stack(part) for part in zip(*samples, strict=True)]
    return mx.stack(samples)


def assert_close(summary, expected):
    assert type(summary) is type(expected)
    for name, array in summary._asdict().items():
        close = {"rtol": 1e-5, "atol": 3e-6, "err_msg": name}
        np.testing.assert_allclose(array, getattr(expected, name), **close)


@each_batch
@each_chunk
@pytest.mark.parametrize("consistent", [True, False])
def test_it_is_the_loop_over_models_and_keys(
    batch_size, chunk, consistent, models, keys, x
):
    cut = {"batch_size": batch_size, "chunk": chunk, "consistent": consistent}
    expected = classify(loop(models, keys, x, consistent=consistent))
    assert_close(predict(models, keys, x, **cut), expected)


@each_batch
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("has_keys", [False, True])
def test_regressions(batch_size, pair, has_keys, models, keys, x):
    members = tuple(map(Pair, models)) if pair else tuple(models)
    given = keys if has_keys else None
    samples = loop(members, given, x)
    expected = regress(*samples) if pair else regress(samples)
    summary = predict(members, given, x, "regression", batch_size=batch_size)
    assert_close(summary, expected)
    assert summary.epistemic.min() > 0


@each_batch
@each_chunk
def test_whole_networks(batch_size, chunk, models, x):
    cut = {"batch_size": batch_size, "chunk": chunk}
    expected = classify(mx.stack([copy.deepcopy(m).eval()(x) for m in models]))
    assert_close(predict(models, None, x, **cut), expected)
    alone = predict(models[0], None, x, **cut)
    assert_close(alone, classify(copy.deepcopy(models[0]).eval()(x)[None]))
    assert not alone.variation_ratio.any()
    off = predict(models, None, x, dropout=False, consistent=False, **cut)
    assert_close(off, expected)


def test_whole_networks_need_no_dropout(keys, x):
    mx.random.seed(0)
    plain = [nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0))]
    expected = classify(mx.stack([model(x) for model in plain]))
    assert_close(predict(plain, None, x, batch_size=2), expected)
    assert_close(predict(plain[0], None, x), classify(plain[0](x)[None]))
    message = r"For models\[0\]: Received a Linear without random layers"
    with pytest.raises(ValueError, match=message):
        predict(plain, keys, x)
    message = r"For models\[1\]: .* have p = 0: .*predict\(model, None, x\)\.$"
    with pytest.raises(ValueError, match=message):
        predict([network(Dropout(0.5), 0), plain[1]], keys, x)


class OwnDropout(nn.Dropout):
    pass


def test_whole_networks_with_layers_that_no_key_reaches(x):
    model = network(OwnDropout(0.5), 0)
    expected = classify(copy.deepcopy(model).eval()(x)[None])
    assert_close(predict(model, None, x), expected)
    assert model.layers[3].training


def test_the_models_are_left_as_they_were(models, keys, x):
    kinds = [type(model.layers[3]) for model in models]
    modes = [[module.training for module in model.modules()] for model in models]
    own, state = get_keys(models[1]), mx.array(mx.random.state[0])
    means = [mx.array(model.layers[1].running_mean) for model in models]
    for given in (keys, None):
        predict(models, given, x, batch_size=2)
        with pytest.raises(ValueError, match="nan"):
            predict(models, given, x * mx.nan)
    assert [type(model.layers[3]) for model in models] == kinds
    assert [[m.training for m in model.modules()] for model in models] == modes
    assert_same(get_keys(models[1])["layers.3"], own["layers.3"])
    assert mx.array_equal(mx.random.state[0], state)
    for model, mean in zip(models, means, strict=True):
        assert_same(model.layers[1].running_mean, mean)


def test_a_model_twice_and_models_that_share_layers(models, keys, x):
    """At other paths in one, so that a key chooses another mask of the same layer."""
    first = models[0]
    deeper = nn.Sequential(nn.Identity(), first)
    other = nn.Sequential(nn.Linear(4, 16), first.layers[3], first.layers[4])
    for members in ([first, first], [first, other], [deeper, first, other]):
        for given in (keys, None):
            expected = classify(loop(members, given, x))
            assert_close(predict(members, given, x, batch_size=3), expected)
        assert type(first.layers[3]) is nn.Dropout
        assert first.training
        assert first.layers[3].training
    twice, once = predict([first, first], keys, x), predict(first, keys, x)
    assert_close(twice, once)


def test_an_ensemble_of_one(models, keys, x):
    for given in (keys, None):
        assert_close(predict(models[:1], given, x), predict(models[0], given, x))


def test_several_inputs(keys):
    class OfTwo(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 8), nn.Linear(5, 8)
            self.dropout, self.head = nn.Dropout(0.5), nn.Linear(8, 3)

        def __call__(self, x, z):
            return self.head(self.dropout(self.first(x) + self.second(z)))

    members, inputs = [OfTwo(), OfTwo()], (normal((7, 2)), normal((7, 5)))
    for given in (keys, None):
        expected = classify(loop(members, given, *inputs))
        assert_close(predict(members, given, inputs, batch_size=2), expected)
    message = r"For models\[0\]: .*missing 1 .*For several inputs, a tuple"
    with pytest.raises(TypeError, match=message):
        predict(members, keys, inputs[0])


def test_chosen_layers(models, keys, x):
    for model in models:
        model.layers.append(nn.Dropout(0.5))
    last = predict(models, keys, x, dropout=lambda path, layer: path == "layers.5")
    for model in models:
        model.layers[3] = nn.Identity()
    assert_close(last, predict(models, keys, x))
    models[1].layers.pop()
    message = r"For models\[1\]: Received a Sequential without random layers"
    with pytest.raises(ValueError, match=message):
        predict(models, keys, x)
    with pytest.raises(TypeError, match=r"For models\[0\]: Received dropout = 'last'"):
        predict(models, keys, x, dropout="last")


@pytest.mark.parametrize("tool", [sample, predict])
def test_layers_that_draw_in_eval_mode_with_dropout_off(tool, keys, x):
    """Their samples differ, so several keys make sense."""
    model = nn.Sequential(nn.Dropout(0.5), Jitter(), nn.Linear(4, 3))
    alone = nn.Sequential(nn.Identity(), model.layers[1], model.layers[2])
    off, expected = tool(model, keys, x, dropout=False), tool(alone, keys, x)
    for a, b in [(off, expected)] if tool is sample else zip(off, expected, strict=True):
        assert mx.allclose(a, b, rtol=1e-5, atol=1e-6)
    on = tool(model, keys, x)
    for a, b in [(off, on)] if tool is sample else zip(off[:1], on[:1], strict=True):
        assert not mx.allclose(a, b, atol=1e-3)


def test_layers_that_would_draw_in_a_whole_network(models, keys, x):
    models[1].layers.append(Jitter())
    message = (
        r"^For models\[1\]: Received no keys for a model whose layers draw in eval mode, "
        r'too: "layers\.5"\..*: predict\(model, keys, x, dropout=False\)\.$'
    )
    with pytest.raises(ValueError, match=message):
        predict(models, None, x)
    message = r"^For models\[0\]: Received dropout = False and 5 keys, .*keys=None\.$"
    with pytest.raises(ValueError, match=message):
        predict(models, keys, x, dropout=False)
    hidden = Dropout(0.5)
    models[2].layers.append(lambda x: hidden(x))
    with pytest.raises(ValueError, match=r"A Dropout draws by its own key, but is not in"):
        predict(models[2], None, x)
    models[2].layers[5] = lambda x: x * mx.random.bernoulli(0.5, x.shape)
    with pytest.raises(ValueError, match=r"For models\[1\]: .* MLX's global stream"):
        predict([models[0], models[2]], None, x)


def test_no_keys_for_a_function(x):
    message = r"Received no keys for a function\. .*predict\(fn, keys\[:1\], x\)"
    with pytest.raises(ValueError, match=message):
        predict(lambda key, x: dropout(x, 0.5, key), None, x)
    message = r"Received dropout = True, but no keys, .*mx\.random\.split\("
    with pytest.raises(ValueError, match=message):
        predict(nn.Dropout(0.5), None, x, dropout=True)


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (lambda key, x: x, "of type function"),
        (nn.Linear, "that is the class Linear itself"),
        ([nn.Linear(4, 3)], "of type list"),
        (None, "of type NoneType"),
    ],
    ids=["function", "class", "list", "None"],
)
def test_what_is_no_model_in_an_ensemble(item, kind, models, keys, x):
    message = rf"^Received models\[1\] {kind}\. Expected an mlx\.nn\.Module\.$"
    for given in (keys, None):
        with pytest.raises(TypeError, match=message):
            predict([models[0], item], given, x)


def test_what_is_no_ensemble(models, keys, x):
    for empty in ([], ()):
        kind = type(empty).__name__
        with pytest.raises(ValueError, match=rf"Received an empty {kind}\. Expected at le"):
            predict(empty, keys, x)
    with pytest.raises(TypeError, match=r"a network of type dict\. Expected a model"):
        predict({"first": models[0]}, keys, x)


def test_arguments_that_are_not_of_a_member(models, keys, x):
    with pytest.raises(TypeError, match=r"^Received keys of type list\."):
        predict(models, list(keys), x)
    with pytest.raises(ValueError, match=r"^Received chunk = 0\."):
        predict(models, keys, x, chunk=0)
    with pytest.raises(TypeError, match=r"^Received chunk of type float"):
        predict(models, None, x, chunk=1.0)


def test_outputs_of_different_shapes(models, keys, x):
    others = [*models, network(Dropout(0.5), 0, outputs=4)]
    for given in (keys, None):
        message = (
            r"^For models\[3\]: Received outputs of shape \(7, 4\), where models\[0\] "
            r"returned \(7, 3\)\. Expected the same of every model\.$"
        )
        with pytest.raises(ValueError, match=message):
            predict(others, given, x)
        message = r"^For models\[1\]: .* \(7, 3\), \(7, 3\), where .* returned \(7, 3\)\."
        with pytest.raises(ValueError, match=message):
            predict([models[0], Pair(models[1])], given, x, "regression")
        flat = nn.Sequential(models[1], lambda y: y.sum(-1))
        column = nn.Sequential(models[0], lambda y: y.sum(-1, keepdims=True))
        message = r"outputs of shape \(7,\), where models\[0\] returned \(7, 1\)\."
        with pytest.raises(ValueError, match=message):
            predict([column, flat], given, x, "regression")
    message = r"^For models\[0\]: Received 2 outputs.*task=\"regression\""
    with pytest.raises(TypeError, match=message):
        predict([Pair(models[0])], keys, x)


class Broken(nn.Module):
    """Answers an example that has a mark with nan, unless its dropout drops it."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def __call__(self, x):
        return mx.where(self.dropout(x) > 1, mx.nan, x)


@each_batch
@each_chunk
def test_the_model_and_key_of_a_nan_are_named(batch_size, chunk, keys):
    x = mx.zeros((7, 3)).at[5, 1].add(1.0)
    models = [nn.Sequential(nn.Dropout(0.5)), Broken()]
    kept = [not mx.isfinite(y).all() for y in sample(Broken(), keys, x, chunk=1)]
    assert 0 < sum(kept) < 5
    cut = {"batch_size": batch_size, "chunk": chunk}
    message = (
        rf"^For models\[1\]: Received .* with keys\[{kept.index(True)}\] at index 5\.$"
    )
    with pytest.raises(ValueError, match=message):
        predict(models, keys, x, **cut)
    models[1] = nn.Sequential(lambda x: mx.where(x > 0, mx.inf, x))
    message = r"^For models\[1\]: Received means that are nan or inf at index \(5, 1\)\.$"
    with pytest.raises(ValueError, match=message):
        predict(models, None, x, "regression", **cut)


@pytest.mark.parametrize("culprit", [0, 1, 2])
@each_batch
def test_one_member_that_ends_in_a_softmax(culprit, batch_size, models, keys, x):
    """In classify of all samples, the others' logits would hide it."""
    models[culprit].layers.append(nn.Softmax())
    for given in (keys, None):
        message = rf"^For models\[{culprit}\]: Received logits .* as probabilities do\."
        with pytest.raises(ValueError, match=message):
            predict(models, given, x, batch_size=batch_size)


class Mixture(nn.Module):
    """Chooses a matrix for each example by GatherMM, which MLX cannot vmap."""

    def __init__(self):
        super().__init__()
        self.dropout, self.weight = nn.Dropout(0.5), normal((2, 4, 3))

    def __call__(self, x):
        x = self.dropout(x)
        expert = (x.sum(-1) > 0).astype(mx.uint32)[:, None]
        return mx.gather_mm(x[:, None, None], self.weight, rhs_indices=expert)[:, 0, 0]


def test_members_that_mlx_cannot_vmap(models, keys, x):
    """Each is tried once, not once a batch; the members beside them are vmapped."""
    calls = []

    def count(y):
        calls.append(len(y))
        return y

    models[0].layers.append(count)
    members = [models[0], Mixture(), Mixture()]
    with pytest.warns(UserWarning, match=r"cannot vmap GatherMM.*chunk=1") as warned:
        summary = predict(members, keys, x, batch_size=3)
    assert len(warned) == 2
    assert {warning.filename for warning in warned} == {__file__}
    assert calls == [3, 3, 1]
    assert_close(summary, predict(members, keys, x, chunk=1))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        predict(members, keys, x, batch_size=3)
    assert len(shown) == 1


def test_thin_convolutions_are_asked_one_key_after_another(keys):
    calls = []

    def count(y):
        calls.append(y.shape)
        return y.mean((1, 2))

    thin = ThinSequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), ThinDropout(0.5), nn.Conv2d(8, 3, 3)
    )
    dense = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Dropout(0.5), nn.Conv2d(8, 3, 3))
    members = [nn.Sequential(thin, count), nn.Sequential(dense, count)]
    x = normal((2, 6, 6, 1))
    summary = predict(members, keys, x)
    assert len(calls) == 5 + 1
    assert_close(summary, predict(members, keys, x, chunk=1))


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Dropout(0.5), nn.Linear(4, 3)

    def __call__(self, x):
        return self.head(self.hidden(x.swapaxes(0, 1)).swapaxes(0, 1).mean(1))


def test_each_member_whose_axis_0_is_not_the_examples_is_named(keys):
    right = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3), lambda y: y.mean(1))
    members, x = [TimeFirst(), right, TimeFirst()], normal((7, 6, 4))
    with pytest.warns(UserWarning, match="hidden") as warned:
        predict(members, keys, x, batch_size=4)
    texts = [str(warning.message) for warning in warned]
    assert [text.split(" received")[0] for text in texts] == [
        'The layer at "hidden" of models[0]',
        'The layer at "hidden" of models[2]',
    ]
    assert {warning.filename for warning in warned} == {__file__}


def test_progress(models, keys, x, capsys):
    predict(models, keys, x, batch_size=4, chunk=2, progress=True)
    assert "30/30" in capsys.readouterr().err
    predict(models, None, x, batch_size=4, progress=True)
    assert "6/6" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_memory_does_not_grow_with_models(task, key):
    """Of 2^18 pixels: the outputs of one model are summarised before the next is asked."""
    x, keys = normal((1, 512, 512, 2)), mx.random.split(key, 2)

    def peak(call):
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(call())
        return mx.get_peak_memory() - before

    few, many = (
        peak(lambda n=n: predict([nn.Dropout(0.5) for _ in range(n)], keys, x, task))
        for n in (2, 16)
    )
    assert many < few + x.nbytes
