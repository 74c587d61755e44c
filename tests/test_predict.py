"""predict: one network for each key, however the examples are cut, and what they say."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from subjects import assert_same, normal

import chandrop
from chandrop.functional import dropout, dropout2d
from chandrop.nn import Dropout, Dropout2d, functional_call, get_keys
from chandrop.random import fold_in
from chandrop.uncertainty import classify, predict, regress, sample

BATCHES, CHUNKS = [None, 1, 3, 7, 100], [None, 1, 4, 6]
each_batch = pytest.mark.parametrize("batch_size", BATCHES)
each_chunk = pytest.mark.parametrize("chunk", CHUNKS)


class Segmenter(nn.Module):
    """Channel and element-wise dropout, BatchNorm in training mode, an output a pixel."""

    def __init__(self, outputs=3):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm(8)
        self.channels = nn.Dropout2d(0.4)
        self.elements = Dropout(0.3)
        self.last = nn.Linear(8, outputs)

    def __call__(self, x):
        x = self.channels(nn.relu(self.norm(self.first(x))))
        return self.last(self.elements(x))


@pytest.fixture
def keys(key):
    return mx.random.split(key, 6)


@pytest.fixture
def model():
    mx.random.seed(3)
    model = Segmenter()
    model.norm.running_mean = normal((8,))
    return model


@pytest.fixture
def x():
    return normal((7, 4, 5, 1))


def assert_close(summary, expected, atol=3e-6):
    assert type(summary) is type(expected)
    for name, array in summary._asdict().items():
        close = {"rtol": 1e-5, "atol": atol, "err_msg": name}
        np.testing.assert_allclose(array, getattr(expected, name), **close)


@each_batch
@each_chunk
def test_any_cut_of_a_classification(batch_size, chunk, model, keys, x):
    summary = predict(model, keys, x, batch_size=batch_size, chunk=chunk)
    assert summary.probabilities.shape == (7, 4, 5, 3)
    assert summary.variation_ratio.shape == (7, 4, 5)
    assert_close(summary, classify(sample(model, keys, x)))


@each_batch
@each_chunk
@pytest.mark.parametrize("pair", [False, True])
def test_any_cut_of_a_regression(batch_size, chunk, pair, keys, x):
    def network(key, x):
        mean = dropout2d(x, 0.5, key).sum((1, 2))
        return (mean, mean**2 + 1) if pair else mean

    cut = {"batch_size": batch_size, "chunk": chunk}
    summary = predict(network, keys, x, "regression", **cut)
    samples = sample(lambda key, x: network(key[None], x), keys, x)
    expected = regress(*samples) if pair else regress(samples)
    assert_close(summary, expected)
    assert summary.mean.shape == (7, 1)


@each_batch
def test_a_key_is_one_network(batch_size, key):
    """Equal examples get equal masks, of channels and of elements, in any batch."""

    def network(key, x):
        return dropout2d(x, 0.5, fold_in(key, 0)) * dropout(x, 0.5, fold_in(key, 1))

    x = mx.ones((7, 2, 2, 16))
    summary = predict(
        network, mx.random.split(key, 8), x, "regression", batch_size=batch_size, chunk=3
    )
    for array in summary:
        assert_same(array, mx.broadcast_to(array[:1], array.shape))
    assert summary.epistemic.max() > 0


@each_batch
def test_a_network_for_each_example(batch_size, model, keys):
    x = mx.broadcast_to(normal((4, 5, 1)), (7, 4, 5, 1))
    whole = predict(model, keys, x, consistent=False)
    assert_close(
        predict(model, keys, x, consistent=False, batch_size=batch_size, chunk=4), whole
    )
    assert len({round(v, 5) for v in whole.mutual_information[:, 0, 0].tolist()}) == 7


def test_the_model_is_left_as_it_was(model, keys, x):
    model.elements.eval()
    global_state = mx.array(mx.random.state[0])
    own = get_keys(model)
    mean = mx.array(model.norm.running_mean)
    predict(model, keys, x, batch_size=2)
    with pytest.raises(ValueError, match="nan"):
        predict(model, keys, x * mx.nan)
    assert type(model.channels) is nn.Dropout2d
    assert model.channels._p_1 == 0.6
    assert model.training
    assert model.norm.training
    assert not model.elements.training
    assert_same(mean, model.norm.running_mean)
    assert get_keys(model).keys() == own.keys() == {"elements"}
    assert mx.array_equal(own["elements"], model.elements._key)
    assert mx.array_equal(mx.random.state[0], global_state)


def test_batch_norm_is_in_eval_mode(model, keys, x):
    """An example's prediction does not depend on the others."""
    one = predict(model, keys, x[:1])
    others = predict(model, keys, mx.concatenate([x[:1], x[1:] * 100]))
    assert_close(one, type(one)(*(array[:1] for array in others)))


def test_chosen_layers(model, keys, x):
    last = predict(model, keys, x, dropout=lambda path, layer: path == "elements")
    model.eval()
    model.channels = nn.Identity()
    assert_close(last, predict(model, keys, x))


class InTraining(nn.Module):
    """Drops behind a guard that people write, or in a function that is compiled before."""

    def __init__(self, compiled):
        super().__init__()
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(2, 3)
        self._call = mx.compile(self._drop) if compiled else self._guarded

    def _drop(self, x):
        return self.head(self.dropout(x))

    def _guarded(self, x):
        return self._drop(x) if self.training else self.head(x)

    def __call__(self, x):
        return self._call(x)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_whose_dropout_is_not_called(compiled, keys, compiles):
    model = InTraining(compiled)
    model.eval()
    model(mx.ones((4, 2)))
    with pytest.raises(ValueError, match=r'no random layer drew with it: "dropout"'):
        predict(model, keys, mx.ones((4, 2)), chunk=1)


def test_a_model_whose_rates_are_zero(keys):
    encoder = nn.TransformerEncoder(1, 8, 2)
    with pytest.raises(ValueError, match=r"dropout layers have p = 0.*dropout1"):
        sample(encoder, keys, mx.ones((2, 3, 8)), None)
    model = nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.5))
    for chosen in (True, lambda path, layer: path == "layers.1"):
        assert sample(model, keys, mx.ones((2, 3)), dropout=chosen).shape == (6, 2, 3)
    with pytest.raises(ValueError, match=r'dropout layers have p = 0: "layers\.0"'):
        sample(model, keys, mx.ones(2), dropout=lambda path, layer: path == "layers.0")


def test_a_model_that_cannot_be_vmapped(keys):
    model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    nn.quantize(model, 32, 4, class_predicate=lambda path, _: path == "layers.2")
    x = normal((5, 64))
    one_by_one = predict(model, keys, x, chunk=1)
    assert one_by_one.mutual_information.min() > 0
    assert_close(one_by_one, classify(sample(model, keys, x, chunk=1)))


def test_batch_norm_in_a_tuple_is_in_eval_mode(keys):
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5))
    model.hidden = (nn.BatchNorm(8),)
    model.layers.append(lambda x: model.hidden[0](x))
    x = normal((6, 2))
    few, all_of_them = (predict(model, keys, x[:n], "regression") for n in (2, 6))
    assert_close(few, type(few)(*(array[:2] for array in all_of_them)))
    assert model.hidden[0].training


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=str)
def test_models_of_low_precision(dtype, model, keys, x):
    exact = predict(model, keys, x)
    model.set_dtype(dtype)
    low = predict(model, keys, x.astype(dtype))
    assert low.probabilities.dtype == mx.float32
    assert mx.allclose(low.probabilities, exact.probabilities, atol=0.02)


def test_token_numbers(keys):
    model = nn.Sequential(nn.Embedding(20, 8), nn.Dropout(0.3), nn.Linear(8, 3))
    tokens = mx.arange(12).reshape(3, 4)
    summary = predict(model, keys, tokens, batch_size=2)
    assert summary.probabilities.shape == (3, 4, 3)


def test_no_layer_is_chosen(model, keys, x):
    with pytest.raises(ValueError, match=r'chose no layer.*"channels", "elements"'):
        predict(model, keys, x, dropout=lambda path, layer: False)
    message = r"dropout = 'last'.*one of \"channels\", \"elements\".*lambda path, layer"
    with pytest.raises(TypeError, match=message):
        predict(model, keys, x, dropout="last")


def test_a_model_without_dropout(keys):
    with pytest.raises(
        ValueError,
        match=r"a Linear without random layers of chandrop\. To ask .*predict\(model, None",
    ):
        predict(nn.Linear(2, 3), keys, mx.ones((4, 2)))


class OwnDropout(nn.Dropout):
    pass


def test_a_layer_that_no_key_reaches(keys):
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), OwnDropout(0.5))
    with pytest.raises(
        ValueError, match=r'a OwnDropout at "layers\.2", which no key reaches'
    ):
        predict(model, keys, mx.ones((4, 2)))
    assert type(model.layers[1]) is nn.Dropout
    chosen = predict(
        model, keys, mx.ones((4, 2)), dropout=lambda path, _: path == "layers.1"
    )
    assert chosen.probabilities.shape == (4, 3)


def test_a_transformer_that_others_wrote(keys):
    encoder = nn.TransformerEncoder(2, 8, 2, dropout=0.2, checkpoint=True)

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = encoder, nn.Linear(8, 3)

        def __call__(self, x):
            return self.head(self.encoder(x, None).mean(1))

    model, x = Classifier(), normal((5, 4, 8))
    summary = predict(model, keys, x, batch_size=2)
    assert_close(summary, predict(model, keys, x), atol=1e-5)
    assert summary.mutual_information.min() > 1e-4
    assert encoder.checkpoint


def test_a_mean_of_a_million_deviations():
    samples = (1e6 + np.random.default_rng(0).normal(size=10_000)).astype(np.float32)
    table, exact = mx.array(samples), samples.astype(np.float64)
    places = mx.arange(10_000).astype(mx.uint32)
    keys = mx.stack([places, places], axis=1)  # numbers that look up the sample

    def network(key, x):
        return x + table[key[0, 0]]

    for chunk in (7, 1000):
        summary = predict(network, keys, mx.zeros(1), "regression", chunk=chunk)
        assert summary.mean.item() == pytest.approx(exact.mean(), rel=1e-7)
        assert summary.epistemic.item() == pytest.approx(exact.var(), rel=5e-5)


def test_ten_thousand_samples_of_a_classification():
    keys = mx.random.split(mx.random.key(0), 10_000)

    def network(key, x):
        return dropout(x, 0.5, key)

    x = mx.array([[2.0, 1.0, 0.0]])
    summary = predict(network, keys, x, chunk=13)
    samples = np.array(sample(network, keys, x[0]), dtype=np.float64)
    exact = np.exp(samples) / np.exp(samples).sum(-1, keepdims=True)
    np.testing.assert_allclose(summary.probabilities[0], exact.mean(0), rtol=1e-5)


@pytest.mark.parametrize("samples", [8, 64])
@pytest.mark.parametrize("task", ["classification", "regression", "pair"])
def test_memory_does_not_grow_with_samples(task, samples, key):
    """Of 2^18 pixels; 4 outputs and a chunk, as benchmarks/uncertainty.py measures them."""
    x = normal((1, 512, 512, 2))
    keys = mx.random.split(key, samples)

    def network(key, x):
        y = dropout2d(x, 0.5, key)
        return (y, y**2) if task == "pair" else y

    def peak(call):
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(call())
        return mx.get_peak_memory() - before

    output = x.nbytes * (2 if task == "pair" else 1)
    chunk = peak(lambda: mx.vmap(lambda key: network(key[None], x))(keys[:8]))
    named = "classification" if task == "classification" else "regression"
    whole = peak(lambda: predict(network, keys, x, named, chunk=8))
    assert whole < chunk + 4 * output


def test_progress(model, keys, x, capsys):
    predict(model, keys, x, batch_size=4, chunk=4, progress=True)
    assert "12/12" in capsys.readouterr().err


def test_an_unknown_task(model, keys, x):
    for task in ("segmentation", None, "Classification"):
        with pytest.raises(
            ValueError, match=r'Received task = .*"classification" or "regression"'
        ):
            predict(model, keys, x, task)


def test_no_examples(model, keys):
    with pytest.raises(ValueError, match=r"Received x of shape .* at least one example"):
        predict(model, keys, mx.zeros((0, 4, 5, 1)))
    with pytest.raises(TypeError, match=r"Received x of type ndarray.*mx\.array\(x\)"):
        predict(model, keys, np.zeros((1, 4, 5, 1)))


def test_no_keys(model, keys, x):
    with pytest.raises(ValueError, match=r"Received keys of shape \(0, 2\)"):
        predict(model, keys[:0], x)


@pytest.mark.parametrize("size", [0, -3])
def test_sizes(size, model, keys, x):
    with pytest.raises(ValueError, match=rf"Received batch_size = {size}\."):
        predict(model, keys, x, batch_size=size)
    with pytest.raises(ValueError, match=rf"Received chunk = {size}\."):
        predict(model, keys, x, chunk=size)


def test_one_class(keys, x):
    with pytest.raises(
        ValueError, match=r"Received logits of shape .*, 1\)\..* K >= 2 classes"
    ):
        predict(Segmenter(outputs=1), keys, x)


@each_batch
@each_chunk
def test_the_sample_that_has_nan_is_named(batch_size, chunk, keys):
    culprit = keys[4]
    x = mx.zeros((7, 3)).at[5].add(1)

    def network(key, x):
        bad = (key[0] == culprit).all() * x
        return mx.where(bad > 0, mx.nan, dropout(x, 0.5, key))

    cut = {"batch_size": batch_size, "chunk": chunk}
    with pytest.raises(ValueError, match=r"with keys\[4\] at index 5\."):
        predict(network, keys, x, **cut)
    with pytest.raises(ValueError, match=r"with keys\[4\] at index \(5, 0\)\."):
        predict(network, keys, x, "regression", **cut)


@pytest.mark.parametrize("output", [lambda x: x.mean(), lambda x: x[:3]])
def test_outputs_that_are_not_one_for_each_example(output, keys, x):
    def network(key, x):
        return output(dropout(x, 0.5, key))

    with pytest.raises(ValueError, match=r"Received an output of shape .* for 7 examples"):
        predict(network, keys, x, "regression")


def test_outputs_of_other_kinds(keys, x):
    flat = x.flatten(1)
    with pytest.raises(TypeError, match=r'Received an output of type dict.*\["logits"\]'):
        predict(lambda key, x: {"logits": dropout(x, 0.5, key)}, keys, flat)
    with pytest.raises(TypeError, match=r'Received 2 outputs.*task="regression"'):
        predict(lambda key, x: (dropout(x, 0.5, key), x), keys, flat)
    with pytest.raises(ValueError, match=r"shape \(7,\).*mx\.stack\(\[mx\.zeros_like"):
        predict(lambda key, x: dropout(x, 0.5, key)[:, 0], keys, flat)
    with pytest.raises(ValueError, match=r"Received an output of shape \(7, 0\)"):
        predict(lambda key, x: x[:, :0], keys, flat, "regression")
    with pytest.raises(
        ValueError, match=r"Received 3 outputs\. Expected means, or means and"
    ):
        predict(lambda key, x: (x, x, x), keys, flat, "regression")


class TwoInputs(nn.Module):
    """Returns a dict, too."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 8), nn.Linear(5, 8)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(8, 3)

    def __call__(self, x, z):
        return {"logits": self.head(self.dropout(self.first(x) + self.second(z)))}


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def __call__(self, *inputs):
        return self.model(*inputs)["logits"]


@each_batch
def test_several_inputs(batch_size, keys):
    model, inputs = Logits(TwoInputs()), (normal((7, 2)), normal((7, 5)))
    summary = predict(model, keys, inputs, batch_size=batch_size)
    assert_close(summary, classify(sample(model, keys, *inputs)))


def test_several_inputs_of_different_lengths(keys):
    with pytest.raises(ValueError, match=r"shape \(7, 2\), \(6, 5\)\..*as many in every"):
        predict(TwoInputs(), keys, (normal((7, 2)), normal((6, 5))))
    with pytest.raises(
        ValueError, match=r"Received task = <class .*array.*a tuple: predict"
    ):
        predict(TwoInputs(), keys, normal((7, 2)), normal((7, 5)))


def test_the_advice_for_dicts(keys):
    class InADict(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5))

        def __call__(self, x):
            return {"logits": self.inner(x)}

    model, x = InADict(), normal((7, 2))
    with pytest.raises(TypeError, match=r"nn\.Sequential\(model, lambda y: y\[") as error:
        predict(model, keys, x)
    advice = str(error.value).split("it holds: ")[1].rstrip(".")
    names = {"nn": nn, "predict": predict, "model": model, "keys": keys, "x": x}
    assert eval(advice, names).mutual_information.min() > 0


class Held:
    def __init__(self, logits):
        self.logits = logits


class OfTwo(nn.Module):
    """Of two inputs; it holds BatchNorm, and one of ``mlx.nn``'s dropouts, as models do."""

    def __init__(self, output):
        super().__init__()
        self.first, self.second = nn.Linear(2, 8), nn.Linear(5, 8)
        self.norm, self.dropout, self.output = nn.BatchNorm(8), nn.Dropout(0.5), output

    def __call__(self, x, z):
        return self.output(self.dropout(self.norm(self.first(x) + self.second(z))))


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("output", [Held, lambda y: {"logits": y}], ids=["object", "dict"])
def test_the_advice_for_objects_and_several_inputs(output, chunk, keys):
    one = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), output)
    x, z = normal((7, 2)), normal((7, 5))
    names = {"nn": nn, "chandrop": chandrop, "predict": predict, "keys": keys, "x": x}
    with pytest.raises(TypeError, match=r"output of type (Held|dict)\.") as error:
        predict(one, keys, x, chunk=chunk)
    advice = str(error.value).split("it holds: ")[1].rstrip(".")
    assert eval(advice, {**names, "model": one}).mutual_information.min() > 0
    two = OfTwo(output)
    with pytest.raises(TypeError, match=r"output of type (Held|dict)\.") as error:
        predict(two, keys, (x, z), chunk=chunk)
    names |= {"model": two, "z": z}
    first, second = str(error.value).split("it holds: ")[1].rstrip(".").split("; ")
    exec(first, names)
    summary = eval(second, names)
    # BatchNorm is in eval mode, and the keys choose the same subnetworks.
    two.output = lambda y: y
    assert_close(summary, predict(two, keys, (x, z)))
    assert summary.mutual_information.min() > 0


def test_inputs_that_are_missing(keys):
    with pytest.raises(TypeError, match=r"missing 1 required .*'z'\. For several") as error:
        predict(OfTwo(lambda y: y), keys, normal((7, 2)))
    advice = str(error.value).split("a tuple: ")[1].rstrip(".")
    names = {"predict": predict, "model": OfTwo(lambda y: y), "keys": keys}
    assert eval(advice, {**names, "x": normal((7, 2)), "z": normal((7, 5))})


def test_probabilities_in_place_of_logits(keys):
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Softmax())
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        model.set_dtype(dtype)
        for cut in ({}, {"batch_size": 2}, {"batch_size": 3, "chunk": 4}):
            with pytest.raises(
                ValueError, match=r"as probabilities do\..*mx\.log\(probabilities\)"
            ):
                predict(model, keys, normal((7, 2)).astype(dtype), **cut)


@each_batch
@each_chunk
def test_logits_that_look_like_probabilities_among_others(batch_size, chunk, keys):
    """At the first examples, and in the first or the last samples."""
    x = mx.concatenate([mx.eye(5), mx.eye(5)[:2] * 3])
    cut = {"batch_size": batch_size, "chunk": chunk}

    def network(key, x):
        return mx.maximum(x, dropout(x, 0.5, key))

    def for_keys(chosen):
        def network(key, x):
            is_chosen = (key[0] == chosen).all(-1).any()
            return mx.where(is_chosen, x, 3 * x)

        return network

    several = [(for_keys(keys[:2]), x[:5]), (for_keys(keys[4:]), x[:5])]
    for function, examples in [(network, x), *several]:
        samples = sample(lambda k, f=function, x=examples: f(k[None], x), keys)
        assert_close(predict(function, keys, examples, **cut), classify(samples))


def test_functions_that_split_their_key(keys, x):
    def network(key, x):
        first, second = mx.random.split(key)
        return dropout(dropout(x, 0.5, first), 0.5, second)

    with pytest.raises(ValueError, match=r"fold_in\(key, 0\)\. For mx\.random"):
        predict(network, keys, x)


def test_a_function_that_calls_a_model(model, keys, x):
    model = nn.Sequential(nn.Linear(1, 8), Dropout2d(0.5), nn.Linear(8, 2))

    def network(key, x):
        return functional_call(model, {}, x, key=key, dropout=True)

    assert_close(predict(network, keys, x), predict(model, keys, x))


class Rearranged(nn.Module):
    """Drops what is arranged otherwise than by example."""

    def __init__(self, there, back):
        super().__init__()
        self.there, self.back = there, back
        self.first, self.head = nn.Linear(4, 16), nn.Linear(16, 3)
        self.hidden = [nn.Dropout(0.5)]

    def __call__(self, x):
        y = self.hidden[0](self.there(self.first(x)))
        return self.head(self.back(y).mean(1))


def experts(y):
    """Sorts tokens by expert: (3, slots, channels), as a mixture of experts does."""
    return y.flatten(0, 1)[: len(y) * 6 // 3 * 3].reshape(3, -1, 16)


REARRANGED = {
    "time first": (lambda y: y.swapaxes(0, 1), lambda y: y.swapaxes(0, 1)),
    "experts": (experts, lambda y: y.reshape(-1, 6, 16)),
}


@pytest.mark.parametrize("name", REARRANGED)
def test_layers_whose_axis_0_is_not_the_examples(name, keys):
    model, x = Rearranged(*REARRANGED[name]), normal((7, 6, 4))
    with pytest.warns(UserWarning, match=r'at "hidden\.0".* for 7 examples') as warned:
        whole = predict(model, keys, x)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match=r'at "hidden\.0"') as warned:
        cut = predict(model, keys, x, batch_size=4, chunk=2)
    assert len(warned) == 1
    # What the warning is about.
    assert not mx.allclose(cut.probabilities, whole.probabilities, atol=1e-3)
    assert type(model.hidden[0]) is nn.Dropout
    assert vars(model.hidden[0]).keys() == vars(nn.Dropout(0.5)).keys()


RIGHT = {
    "windows": (lambda y: y.reshape(-1, 2, 16), lambda y: y.reshape(-1, 6, 16)),
    "tokens": (lambda y: y.flatten(0, 1), lambda y: y.reshape(-1, 6, 16)),
}


@pytest.mark.parametrize("name", RIGHT)
@each_batch
def test_layers_whose_axis_0_is_a_multiple_of_the_examples(name, batch_size, keys):
    model, x = Rearranged(*RIGHT[name]), normal((7, 6, 4))
    whole = predict(model, keys, x)
    assert_close(predict(model, keys, x, batch_size=batch_size), whole, atol=1e-5)


def test_dropout_is_for_models(keys, x):
    with pytest.raises(ValueError, match=r"Received dropout for a function"):
        predict(lambda key, x: x, keys, x, dropout=True)
