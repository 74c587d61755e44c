from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path

from chandrop._checks import of_type
from chandrop.nn.tools._layers_by_path import as_module


def stack_parameters(models: Iterable[nn.Module]) -> Any:
    """Stacks the parameters of models of one architecture, for ``mx.vmap``.

    Returns a tree like ``model.parameters()``, whose arrays have the members along axis 0.
    It lacks what is not a parameter, such as a layer's array of rates.

    Raises:
        TypeError: `models` is not a list of modules.
        ValueError: there are no models, or their parameters differ in name, shape or dtype.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, functional_call, stack_parameters
        >>> models = [nn.Sequential(nn.Linear(4, 8), Dropout(0.5)) for _ in range(3)]
        >>> def member(parameters, key):
        ...     return functional_call(models[0], parameters, mx.ones((2, 4)), key=key)
        >>> keys = mx.random.split(mx.random.key(0), 3)
        >>> mx.vmap(member)(stack_parameters(models), keys).shape
        (3, 2, 8)

    Source: ``torch.func.stack_module_state``.
    """
    if isinstance(models, (nn.Module, type)) or not isinstance(models, Iterable):
        raise TypeError(f"Received models {of_type(models)}. Expected a list of models.")
    models = list(models)
    if not models:
        raise ValueError("Received no models. Expected at least one.")
    members: list[dict[str, mx.array]] = []
    for i, model in enumerate(models):
        module = as_module(model, f"models[{i}]")
        members.append(dict(tree_flatten(module.parameters())))
        for name in sorted(members[0].keys() | members[i].keys()):
            expected, received = (_description(members[j].get(name)) for j in (0, i))
            if expected != received:
                raise ValueError(
                    f'Received models that differ in "{name}": models[0] has {expected}, '
                    f"models[{i}] has {received}. Expected the same names, shapes and "
                    "dtypes."
                )
    return tree_map_with_path(
        lambda name, _: mx.stack([member[name] for member in members]),
        models[0].parameters(),
    )


def _description(parameter: mx.array | None) -> str:
    return "none" if parameter is None else f"{parameter.dtype} of shape {parameter.shape}"
