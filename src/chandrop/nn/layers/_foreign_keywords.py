"""Keywords of other libraries, and what to write in their place."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.nn as nn

NAMES_OF_RATE = frozenset({"rate", "drop_prob", "dropout", "_p_1"})

_OURS = {
    **dict.fromkeys((*NAMES_OF_RATE, "dropout_p", "dropout_rate"), "p"),
    **dict.fromkeys(("rngs", "seed"), "key"),
    "scale_by_keep": "scale",
}
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
    "keep_prob": "Expected the probability of dropping: p = 1 - keep_prob",
    "mode": "A DropPath draws for each example; layer(x, key=key[None]) draws once for all",
}


def check_arguments(
    layer: type[Any], arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> None:
    """Raises for arguments that the constructor of a class does not take.

    Python's own error would name the private base class that defines the constructor.
    """
    import inspect  # Late, since it takes as long as all of chandrop.

    parameters = inspect.signature(layer.__init__).parameters
    kinds = {p.kind for p in parameters.values()}
    if kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}:
        return
    names = list(parameters)[1:]
    required = [n for n in names if parameters[n].default is inspect.Parameter.empty]
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    positional = [name for name in names if parameters[name].kind is not keyword_only]
    if len(arguments) > len(positional):
        others = [f"{name}=..." for name in names if name not in positional]
        raise TypeError(
            f"Received {len(arguments)} arguments for {layer.__name__} by position. "
            f"Expected {layer.__name__}({', '.join([*positional, *others])})."
        )
    for word, value in keywords.items():
        if word in names:
            continue
        shown = repr(value) if isinstance(value, (bool, int, float, str)) else "..."
        ours = _OURS.get(word)
        if ours == "p" and "dropout" in names:
            ours = "dropout"
        if ours in names:
            example = "mx.random.key(0)" if ours == "key" else shown
            others = [name for name in required if name != ours]
            given = ", ".join([*others, f"{ours}={example}"])
            expected = f"Expected {ours}: {layer.__name__}({given})"
        else:
            expected = _EXPECTED.get(word, f"Expected one of {', '.join(names)}")
        raise TypeError(f"{layer.__name__} takes no {word}={shown}. {expected}.")


def declares(layer: type[Any], name: str) -> bool:
    """Whether a class has an attribute of this name, or annotates one."""
    if name == "_p_1":
        return issubclass(layer, (nn.Dropout, nn.Dropout2d, nn.Dropout3d))
    if hasattr(layer, name):
        return True
    import inspect

    return any(name in inspect.get_annotations(base) for base in layer.__mro__)
