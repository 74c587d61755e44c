"""How sure a language model is: subnetworks on tokens, with masks and with a cache."""

import copy

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from clients.models import (
    RATE,
    TOKENS,
    class_as_it_was,
    experts_with_lora,
    llama,
    llama_with_dora,
    llama_with_lora,
    llama_with_lora_of_embeddings,
    lora,
    mixture_of_experts,
    quantised_llama_with_lora,
)
from mlx.utils import tree_unflatten
from subjects import assert_same

from chandrop.nn import Dropout1d, convert, functional_call
from chandrop.uncertainty import classify, predict, sample

pytest.importorskip("mlx_lm")

from mlx_lm.generate import generate_step
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.tuner.trainer import grad_checkpoint


def experts_with_lora_of_attention():
    return lora(mixture_of_experts(), keys=["self_attn.q_proj", "self_attn.v_proj"])


KEYS = mx.random.split(mx.random.key(7), 4)
LENGTH = 6
# Models, and the number of keys at a time.
MODELS = {
    llama_with_lora: None,
    llama_with_dora: None,
    llama_with_lora_of_embeddings: None,
    quantised_llama_with_lora: 1,
    experts_with_lora_of_attention: 1,
}
CACHES = {
    "KVCache": lambda model: [KVCache() for _ in model.layers],
    "RotatingKVCache": lambda model: [RotatingKVCache(32) for _ in model.layers],
}


@pytest.fixture(params=MODELS, ids=lambda build: build.__name__)
def build(request):
    return request.param


@pytest.fixture
def chunk(build):
    return MODELS[build]


@pytest.fixture
def model(build):
    """One mask for all positions of a sequence, as docs/clients.md has it."""
    mx.random.seed(0)
    model = build()
    dropouts = [p for p, layer in model.named_modules() if isinstance(layer, nn.Dropout)]
    model.update_modules(tree_unflatten([(path, Dropout1d(RATE)) for path in dropouts]))
    return model.eval()


def called(model, key, tokens, cache=None):
    return functional_call(model, {}, tokens, cache, key=key[None], dropout=True)


@pytest.mark.parametrize("build", [*MODELS, experts_with_lora])
def test_of_each_token(build, key):
    """In one call, without convert and with it."""
    mx.random.seed(0)
    model = build()
    chunk = MODELS.get(build, 1)
    plain = predict(model, KEYS, TOKENS, chunk=chunk)
    assert plain.probabilities.shape == (*TOKENS.shape, 32)
    assert plain.mutual_information.shape == TOKENS.shape
    assert plain.mutual_information.min() > 0
    convert(model)
    converted = predict(model, KEYS, TOKENS, batch_size=1, chunk=chunk)
    np.testing.assert_allclose(
        converted.mutual_information, plain.mutual_information, rtol=1e-3, atol=1e-5
    )
    logits = sample(model, KEYS, TOKENS, chunk=1)
    np.testing.assert_allclose(
        classify(logits).mutual_information, plain.mutual_information, rtol=1e-3, atol=1e-5
    )


def test_tokens_that_pad_change_nothing(model, chunk):
    """With one mask for all positions, what is added on the right is not seen."""
    padded = mx.concatenate([TOKENS, mx.zeros((2, 7), TOKENS.dtype)], axis=1)
    expected = predict(model, KEYS, TOKENS, chunk=chunk).mutual_information
    information = predict(model, KEYS, padded, chunk=chunk).mutual_information
    n = TOKENS.shape[1]
    np.testing.assert_allclose(information[:, :n], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("caches", CACHES.values(), ids=CACHES)
def test_with_a_cache_of_its_own_each_key_is_the_same_subnetwork(model, chunk, caches):
    def token_by_token(key, tokens):
        cache = caches(model)
        columns = mx.split(tokens, tokens.shape[1], axis=1)
        return mx.concatenate([called(model, key, c, cache) for c in columns], axis=1)

    at_once = sample(model, KEYS, TOKENS, chunk=chunk)
    logits = sample(token_by_token, KEYS, TOKENS, chunk=chunk)
    np.testing.assert_allclose(logits, at_once, rtol=1e-3, atol=1e-4)


def test_masks_of_elements_depend_on_the_length():
    """Why Dropout1d: a mask for each position is another one in each call."""
    mx.random.seed(0)
    model = convert(llama_with_lora()).eval()
    at_once = sample(model, KEYS, TOKENS)[:, :, :4]
    alone = sample(model, KEYS, TOKENS[:, :4])
    assert mx.abs(at_once - alone).max() > 0.1


def test_a_shared_cache_is_an_error(model, chunk):
    cache = make_prompt_cache(model)
    with pytest.raises(ValueError, match=r"copy\.deepcopy\(cache\)"):
        sample(model, KEYS, TOKENS, cache, chunk=chunk)
    assert all(layer.empty() for layer in cache)
    with pytest.raises(TypeError, match=r"Expected an mx\.array"):
        predict(model, KEYS, (TOKENS, cache))
    assert all(layer.empty() for layer in cache)


def test_a_copy_of_a_cache_for_each_key(model, chunk):
    """The prompt is read once, without dropout; each key continues from there."""
    cache = make_prompt_cache(model)
    model(TOKENS[:, :-1], cache)
    before = copy.deepcopy(cache)

    def continued(key, tokens):
        return called(model, key, tokens, copy.deepcopy(cache))

    logits = sample(continued, KEYS, TOKENS[:, -1:], chunk=chunk)
    assert logits.shape == (len(KEYS), len(TOKENS), 1, 32)
    assert not mx.allclose(logits[0], logits[1])
    for layer, was in zip(cache, before, strict=True):
        assert layer.offset == was.offset
        assert_same(layer.keys, was.keys)
    information = predict(
        lambda key, tokens: continued(key[0], tokens), KEYS, TOKENS[:, -1:], chunk=chunk
    ).mutual_information
    np.testing.assert_allclose(
        information, classify(logits).mutual_information, rtol=1e-3, atol=1e-6
    )


def generate(model, key, tokens, cached=True):
    """Continues by one subnetwork, as docs/clients.md does."""
    cache, texts = make_prompt_cache(model) if cached else None, tokens
    for _ in range(LENGTH):
        tokens = called(model, key, tokens if cached else texts, cache)[:, -1:].argmax(-1)
        texts = mx.concatenate([texts, tokens], axis=1)
    return texts[:, -LENGTH:]


def test_sequences_by_one_subnetwork_each(model, chunk):
    def cached(key, tokens):
        return generate(model, key, tokens)

    def uncached(key, tokens):
        return generate(model, key, tokens, cached=False)

    texts = sample(cached, KEYS, TOKENS, chunk=chunk)
    assert texts.shape == (len(KEYS), len(TOKENS), LENGTH)
    assert_same(sample(cached, KEYS, TOKENS, chunk=1), texts)
    assert_same(sample(uncached, KEYS, TOKENS, chunk=chunk), texts)
    assert len({str(text.tolist()) for text in texts}) > 1


def test_after_grad_checkpoint_one_key_at_a_time():
    """mlx-lm leaves the class checkpointed, where MLX's vmap loses what a cache holds."""
    mx.random.seed(0)
    model = lora(llama()).eval()
    convert(model)

    def cached(key, tokens):
        return generate(model, key, tokens)

    expected = sample(cached, KEYS, TOKENS)
    mx.eval(expected)
    with class_as_it_was(model):
        grad_checkpoint(model.layers[0])
        assert_same(sample(cached, KEYS, TOKENS, chunk=1), expected)
        with pytest.raises(RuntimeError, match="without a primitive"):
            mx.eval(sample(cached, KEYS, TOKENS))


def test_sequences_by_mlx_lm_s_own_generator(model):
    for key in KEYS[:2]:

        def subnetwork(tokens, cache, key=key):
            return called(model, key, tokens, cache)

        steps = generate_step(
            TOKENS[0], subnetwork, prompt_cache=make_prompt_cache(model), max_tokens=LENGTH
        )
        # Some versions yield an array, others a number.
        tokens = [int(token) for token, _ in steps]
        assert tokens == generate(model, key, TOKENS[:1])[0].tolist()


def test_masks_of_attention():
    """What is masked in BERT's input has no part in what its subnetworks say."""
    pytest.importorskip("mlx_embeddings")
    from clients.models import bert

    mx.random.seed(0)
    model, mask = bert(), mx.ones(TOKENS.shape).at[:, 6:].multiply(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = model

        def __call__(self, tokens, mask):
            return self.bert(tokens, attention_mask=mask).last_hidden_state

    others = mx.where(mask > 0, TOKENS, 0)
    first, second = (
        predict(Network(), KEYS, (tokens, mask)).mutual_information
        for tokens in (TOKENS, others)
    )
    np.testing.assert_allclose(first[:, :6], second[:, :6], rtol=1e-3, atol=1e-6)
    assert not mx.allclose(first[:, 6:], second[:, 6:])
