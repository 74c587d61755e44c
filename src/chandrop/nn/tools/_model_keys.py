"""The keys of a model's layers, by path."""

from collections.abc import Iterable, Mapping

import mlx.core as mx
import mlx.nn as nn

from chandrop._checks import check_flag, of_type
from chandrop.nn.layers._keyed_layer import KeyedLayer
from chandrop.nn.tools._layers_by_path import layers_by_path, quoted
from chandrop.random import Key, check_key, fold_in


def rekey(model: nn.Module, key: Key) -> None:
    """Derives a new key for every random layer of a model from one key and its path.

    The same key gives the same masks again, whichever other layers are added or removed.
    ``rekey(model, fold_in(key, step))`` makes each step repeatable on its own, also inside
    a compiled step.

    Args:
        model: any model. Layers are found where ``mlx.nn`` finds them: in attributes,
            lists, dicts and other modules. One at several places has the smallest path.
        key: one key, ``(2,)``; one for each example, ``(B, 2)``, as
            :func:`chandrop.random.example_keys` returns; or one for all alike, ``(1, 2)``.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: `model` has no random layer of chandrop, or has one in a tuple; `key`
            has the wrong shape.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, rekey
        >>> model = nn.Sequential(nn.Linear(4, 4), Dropout(0.5))
        >>> rekey(model, mx.random.key(0))
        >>> first = model(mx.ones((2, 4)))
        >>> rekey(model, mx.random.key(0))
        >>> mx.array_equal(model(mx.ones((2, 4))), first).item()
        True

    Source: a layer's key is ``fold_in(key, crc32(path))``, with the path of
    ``model.named_modules()`` in UTF-8. Haiku and Flax also derive keys from names.
    """
    layers = keyed_layers(model)
    check_has_layers(model, layers)
    assign_keys(layers, key)


def get_keys(model: nn.Module) -> dict[str, Key]:
    """Returns the key of every random layer of a model by path, to save and resume with.

    Layers are found as by :func:`rekey`. The dict, from path to key, ``(2,)`` or
    ``(B, 2)``, is sorted by path, and ``mx.save_safetensors`` takes it.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, get_keys
        >>> model = nn.Sequential(nn.Linear(4, 4), Dropout(key=mx.random.key(0)))
        >>> get_keys(model)
        {'layers.1': array([0, 0], dtype=uint32)}

    Source: the ``Rngs`` of Flax NNX, which keep keys as state.
    """
    return {path: layer._key for path, layer in keyed_layers(model).items()}


def set_keys(model: nn.Module, keys: Mapping[str, Key], strict: bool = True) -> None:
    """Sets the keys of a model's random layers; the inverse of :func:`get_keys`.

    Args:
        model: any model; see :func:`rekey` for where layers are found.
        keys: from path to key, ``(2,)`` or ``(B, 2)``.
        strict: whether every layer must have its path in `keys`; otherwise the others keep
            their keys. Default: ``True``.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: `keys` has a path without a layer or, if `strict`, lacks one; a layer is
            in a tuple; a key has the wrong shape. No key is then set.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, get_keys, set_keys
        >>> model = nn.Sequential(nn.Linear(4, 4), Dropout())
        >>> saved = get_keys(model)
        >>> first = model(mx.ones((2, 4)))
        >>> set_keys(model, saved)
        >>> mx.array_equal(model(mx.ones((2, 4))), first).item()
        True
    """
    layers = keyed_layers(model)
    check_flag(strict, "strict")
    if not isinstance(keys, Mapping):
        raise TypeError(f"Received keys {of_type(keys)}. Expected a dict: get_keys(model).")
    unknown = sorted(keys.keys() - layers.keys())
    if unknown:
        raise ValueError(
            f"Received keys for paths without a random layer: {quoted(unknown)}. "
            f"The model's random layers are: {quoted(layers) or 'none'}."
        )
    missing = sorted(layers.keys() - keys.keys())
    if strict and missing:
        raise ValueError(
            f"Received no keys for the random layers at {quoted(missing)}. To leave them "
            "as they are: set_keys(model, keys, strict=False)."
        )
    for path, key in keys.items():
        try:
            _check_layer_key(key)
        except (TypeError, ValueError) as error:
            raise type(error)(f"For {quoted([path])}: {error}") from error
    for path, key in keys.items():
        layers[path]._key = key


def keyed_layers(model: nn.Module) -> dict[str, KeyedLayer]:
    """Returns chandrop's random layers by path."""
    return layers_by_path(model, KeyedLayer)


def check_has_layers(
    model: nn.Module,
    layers: Mapping[str, KeyedLayer],
    fix: str = "If it has dropout layers of mlx.nn: chandrop.nn.convert(model).",
) -> None:
    """Raises if there is no layer to give a key to."""
    if not layers:
        raise ValueError(
            f"Received a {type(model).__name__} without random layers of chandrop. {fix} "
            "If one is in a lambda or the like: make it an attribute of the model."
        )


def assign_keys(layers: Mapping[str, KeyedLayer], key: Key) -> None:
    """Derives the key of every layer from `key` and its path, in one call, and sets it."""
    _check_layer_key(key)
    words = hashes(layers).reshape(-1, *(1,) * (key.ndim - 1))
    keys = mx.split(fold_in(key, words).flatten(0, 1), len(layers))
    for layer, layer_key in zip(layers.values(), keys, strict=True):
        layer._key = layer_key


def hashes(texts: Iterable[str]) -> mx.array:
    """Returns the CRC-32 of each text in UTF-8, as uint32."""
    from zlib import crc32  # Late, to import chandrop faster.

    return mx.array([crc32(text.encode()) for text in texts], dtype=mx.uint32)


def _check_layer_key(key: Key) -> None:
    check_key(key)
    if key.ndim > 2:
        raise ValueError(
            f"Received keys of shape {key.shape}. Expected one key, (2,), or one for each "
            "example, (B, 2)."
        )
