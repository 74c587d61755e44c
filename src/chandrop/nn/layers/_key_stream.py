from chandrop.nn.layers._keyed_layer import KeyedLayer
from chandrop.random import Key


class KeyStream(KeyedLayer):
    """A source of keys, for what a model draws itself: each call returns the next key.

    It is for noise, augmentation or the reparametrisation of a variational autoencoder, and
    gives keys in eval mode, too. Its own key is state like any layer's, so each member of
    ``mx.vmap`` gets other keys, and the recomputation of ``mx.checkpoint`` the same.

    The call returns one key, ``(2,)``; or, if the model has a key for each example, these
    keys, ``(B, 2)``, which :mod:`chandrop.functional` takes. For ``mx.random``:
    ``mx.vmap(lambda key: mx.random.normal(shape, key=key))(keys)``.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import KeyStream
        >>> class Noise(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.next_key = KeyStream()
        ...
        ...     def __call__(self, x):
        ...         return x + mx.random.normal(x.shape, key=self.next_key())
        >>> Noise()(mx.ones((8, 128))).shape
        (8, 128)

    Source: the ``Rngs`` of Flax NNX, Haiku's ``PRNGSequence``.
    """

    _draws_in_eval_mode = True

    def __call__(self) -> Key:  # type: ignore[override]
        """Returns the next key."""
        key: Key = self._call(self._next, None, None)
        return key

    def _next(self, _: None, key: Key) -> Key:
        # One key for all examples alike: noise of a batch's shape needs no other.
        return key[0] if key.shape == (1, 2) else key
