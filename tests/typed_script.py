"""A user's script, whose types `make lint` checks: every call has the type it should."""

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

import chandrop
from chandrop.functional import Rate, drop_path, dropout2d, dropout_attention
from chandrop.nn import (
    AttentionDropout,
    Dropout2d,
    DropPath,
    KeyedLayer,
    KeyStream,
    MultiHeadAttention,
    WeightDropout,
    checkpoint,
    convert,
    functional_call,
)
from chandrop.random import Key, example_keys
from chandrop.thin import PatchDropout, ThinDropout, patch_dropout
from chandrop.uncertainty import (
    Classification,
    Regression,
    gaussian_negative_log_likelihood,
    predict,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type


class Noise(KeyedLayer):
    def draw(self, x: mx.array, key: Key) -> mx.array:
        return x + mx.random.normal(x.shape, key=key)


def script(x: mx.array, key: Key, rate: Rate) -> None:
    assert_type(dropout2d(x, rate, key), mx.array)
    assert_type(drop_path(x, rate, key, scale=False), mx.array)
    assert_type(dropout_attention(x, x, x, rate, key, scale=0.5, mask="causal"), mx.array)
    assert_type(example_keys(key, 4), mx.array)
    layer = Dropout2d(0.5)
    assert_type(layer(x), mx.array)
    assert_type(layer.p, float | mx.array)
    assert_type(DropPath(0.5, scale=False)(x), mx.array)
    assert_type(AttentionDropout(0.5, (2, 3))(x, x, x, scale=0.5, mask=x), mx.array)
    attention = MultiHeadAttention(8, 2, dropout=rate, spatial_axes=2)
    assert_type(attention(x, x, x, "causal", key=key), mx.array)
    assert_type(attention.dropout.p, float | mx.array)
    assert_type(ThinDropout(0.5).p, float)
    assert_type(PatchDropout(0.5, prefix_tokens=0)(x), mx.array)
    assert_type(patch_dropout(x, 0.5, key), mx.array)
    assert_type(Noise()(x, key=key), mx.array)
    assert_type(KeyStream()(), mx.array)
    model = nn.Linear(4, 4)
    dropped = WeightDropout(model, 0.5, spatial_axes=1, name="weight")
    assert_type(dropped(x, key=key), Any)
    assert_type(dropped.p, float | mx.array)
    assert_type(convert(model), nn.Linear)
    assert_type(functional_call(model, {}, x, key=key, return_state=True), tuple[Any, Any])
    assert_type(predict(model, key, x), Classification)
    assert_type(predict(model, key, x, "regression"), Regression)
    assert_type(predict([model, model], None, x, batch_size=2), Classification)
    assert_type(predict((model, layer), key, x, "regression"), Regression)
    predict(model, x)  # type: ignore[call-overload]
    assert_type(gaussian_negative_log_likelihood(x, x, x), mx.array)
    gaussian_negative_log_likelihood(x, x, x, reduction="sum")  # type: ignore[arg-type]
    assert_type(chandrop.__version__, str)

    def block(x: mx.array, scale: float) -> mx.array:
        return x * scale

    assert_type(checkpoint(model, block)(x, 2.0), mx.array)
    checkpoint(model, block)(x, "2")  # type: ignore[arg-type]
