"""What other libraries call what a layer has, and what it does not have."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

WORDS_FOR_RATE = frozenset({"rate", "drop_prob", "dropout"})

_BY_KEYWORD = inspect.Parameter.KEYWORD_ONLY
# Words of torch, timm, torchvision, Flax, Haiku, Equinox or Keras, and what takes their
# place: another word, or none.
_OURS = {**dict.fromkeys(WORDS_FOR_RATE, "p"), "rngs": "key", "seed": "key"}
_MODE = "A layer is in training mode: layer.eval() and layer.train() change that"
_AXES = "Channels are last; for other layouts: ChannelDropout(p, spatial_axes=...)"
_EXPECTED = {
    "inplace": "The result is always a new array",
    "training": _MODE,
    "deterministic": _MODE,
    "inference": _MODE,
    "data_format": _AXES,
    "noise_shape": _AXES,
    "broadcast_dims": _AXES,
    "mode": "A DropPath draws for each example; layer(x, key=key[None]) draws once for all",
    "scale_by_keep": "What a DropPath keeps is always scaled, which keeps the mean",
}


def check_words(
    layer: type[Any], arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> None:
    """Raises for an argument that the constructor of a class does not take.

    Python's own error would name the class that defines the constructor, a private one.
    """
    signature = inspect.signature(layer.__init__)
    parameters = signature.parameters
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values()):
        return
    taken = list(parameters)[1:]
    by_place = [name for name in taken if parameters[name].kind is not _BY_KEYWORD]
    if len(arguments) > len(by_place):
        others = [f"{name}=..." for name in taken if name not in by_place]
        raise TypeError(
            f"Received {len(arguments)} arguments for {layer.__name__} by position. "
            f"Expected {layer.__name__}({', '.join([*by_place, *others])})."
        )
    for word, value in keywords.items():
        if word in taken:
            continue
        shown = repr(value) if isinstance(value, (bool, int, float, str)) else "..."
        ours = _OURS.get(word)
        if ours in taken:
            example = shown if ours == "p" else "mx.random.key(0)"
            expected = f"Expected {ours}: {layer.__name__}({ours}={example})"
        else:
            expected = _EXPECTED.get(word, f"Expected one of {', '.join(taken)}")
        raise TypeError(f"{layer.__name__} takes no {word}={shown}. {expected}.")


def declares(layer: type[Any], name: str) -> bool:
    """Whether a class has an attribute of this name, or annotates one."""
    return hasattr(layer, name) or any(
        name in inspect.get_annotations(base) for base in layer.__mro__
    )
