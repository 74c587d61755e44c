from collections.abc import Callable

import mlx.core as mx

from chandrop.functional._thin_drop_path import check_branch, on_kept_examples
from chandrop.nn._surroundings import note
from chandrop.nn._thin_layer import ThinLayer
from chandrop.random import check_key


class ThinDropPath(ThinLayer):
    r"""Computes the branch of a residual block for a fixed number of examples only.

    It takes the place of :class:`DropPath`, of which it needs the branch in place of the
    branch's output: ``x + drop_path(x, branch)`` for ``x + drop_path(branch(x))``. The
    branch stays where it is, so no parameter gets another name. Which examples are kept
    depends on their places in the batch, and of few examples few rates can be had: 4 at
    p = 0.1 are all kept, and one is always kept.

    Args:
        p: the share of examples to drop: a number in ``[0, 1)``. Of ``B`` examples
            ``max(1, round((1 - p) * B))`` go through the branch.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`. At the call, and from
            :func:`functional_call` or :func:`rekey`, it takes one key: no key for each
            example.

    Shape:
        Input: any shape whose axis 0 is the batch. Output: that of ``branch(x)``.

    Raises:
        TypeError: `p` is not a number; see :class:`Dropout`; at the call also as
            :func:`chandrop.functional.thin_drop_path`.
        ValueError: `p` is not in ``[0, 1)``; see :class:`Dropout`; at the call also as
            :func:`chandrop.functional.thin_drop_path`.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import ThinDropPath
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.norm, self.linear = nn.LayerNorm(16), nn.Linear(16, 16)
        ...         self.drop_path = ThinDropPath(0.4)
        ...
        ...     def __call__(self, x):
        ...         return x + self.drop_path(x, lambda x: self.linear(self.norm(x)))
        >>> Block()(mx.ones((8, 16))).shape
        (8, 16)

    Source: see :func:`chandrop.functional.thin_drop_path`.
    """

    def __init__(self, p: float, *, key: mx.array | None = None):
        super().__init__(p, key)

    def __call__(
        self,
        x: mx.array,
        branch: Callable[..., mx.array] | None = None,
        *others: mx.array | None,
        key: mx.array | None = None,
    ) -> mx.array:
        """Computes the branch for some examples in training mode, in eval mode for all.

        Args:
            x: what the branch is given.
            branch: a function or module that gives one output for each example. Without it
                there is an error, which says how to come here from :class:`DropPath`.
            *others: what else the branch takes of each example; see
                :func:`chandrop.functional.thin_drop_path`.
            key: what to choose the examples with; the layer's own then stays as it is.
                Default: the layer splits its own key, chooses with one half and keeps the
                other.
        """
        note(self)
        branch = check_branch(branch, x, *others)
        if key is not None:
            check_key(key)
        if not self.training or x.shape[0] == 0:
            return branch(x, *others)
        return on_kept_examples(self._keep(x.shape[0], key), branch, x, *others)
