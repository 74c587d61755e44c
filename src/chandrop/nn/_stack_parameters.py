from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map


def stack_parameters(models: Iterable[nn.Module]) -> Any:
    """Stacks the parameters of models of one architecture, for ``mx.vmap``.

    Args:
        models: the members of the ensemble, at least one.

    Returns:
        A tree as ``model.parameters()`` gives it, whose arrays have a leading axis: entry
        ``i`` is that of ``models[i]``. One member is ``tree_map(lambda a: a[i], tree)``.

    Raises:
        TypeError: `models` is one module, or one of them is not a module.
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
    if isinstance(models, nn.Module):
        raise TypeError(f"Received one {type(models).__name__}. Expected a list of models.")
    models = list(models)
    if not models:
        raise ValueError("Received no models. Expected at least one.")
    for i, model in enumerate(models):
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"Received models[{i}] of type {type(model).__name__}. Expected an "
                "mlx.nn.Module."
            )
        _check_same_structure(models[0], model, i)
    trees = [model.parameters() for model in models]
    return tree_map(lambda *arrays: mx.stack(list(arrays)), *trees)


def _check_same_structure(first: nn.Module, other: nn.Module, i: int) -> None:
    expected, received = _described(first), _described(other)
    for name in sorted(expected.keys() | received.keys()):
        if expected.get(name) != received.get(name):
            raise ValueError(
                f'Received models that differ in "{name}": models[0] has '
                f"{expected.get(name, 'none')}, models[{i}] has "
                f"{received.get(name, 'none')}. Expected the same names, shapes and dtypes."
            )


def _described(model: nn.Module) -> dict[str, str]:
    flat: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    return {name: f"{a.dtype} of shape {a.shape}" for name, a in flat.items()}
