import mlx.core as mx

from chandrop.functional import thin_dropout_channels
from chandrop.functional._keep_channels import number_kept
from chandrop.nn._thin_layer import ThinLayer


class ThinDropout(ThinLayer):
    r"""Keeps a fixed number of channels, the same for the whole batch, channels last.

    In a :class:`ThinSequential` the channels that it drops are not computed. Anywhere else
    it multiplies them by 0, with the same result.

    Args:
        p: the share of channels to drop: a number in ``[0, 1)``. Of ``C`` channels
            ``max(1, round((1 - p) * C))`` are kept. Default: ``0.5``.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`. At the call, and from
            :func:`functional_call` or :func:`rekey`, it takes one key: no key for each
            example.

    Shape:
        Input and output: any shape whose last axis are the channels, of a floating-point or
        complex dtype.

    Raises:
        TypeError: `p` is not a number; see :class:`Dropout`.
        ValueError: `p` is not in ``[0, 1)``; see :class:`Dropout`; at the call also as
            :func:`chandrop.functional.thin_dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import ThinDropout
        >>> y = ThinDropout(0.75)(mx.ones((8, 28, 28, 16)))
        >>> (y != 0).sum(-1).max().item()
        4

    Source: Graham, Reizenstein and Robinson, "Efficient batchwise dropout training using
    submatrices", 2015; see :func:`chandrop.functional.thin_dropout_channels`.
    """

    _spatial_axes = ()

    def __init__(self, p: float = 0.5, *, key: mx.array | None = None):
        super().__init__(p, key)

    def __call__(self, x: mx.array, *, key: mx.array | None = None) -> mx.array:
        """Drops in training mode; gives `x` back in eval mode.

        Args:
            x: the input.
            key: what to draw with: one key, ``(2,)`` or ``(1, 2)``; the layer's own then
                stays as it is. Default: the layer splits its own key, draws with one half
                and keeps the other.
        """
        return super().__call__(x, key=key)

    def _check_axes(self, x: mx.array) -> None:
        check_has_channels(x)

    def _keeps_all(self, x: mx.array) -> bool:
        return number_kept(x.shape[-1], self.p) == x.shape[-1]

    def _drop(self, x: mx.array, key: mx.array) -> mx.array:
        return thin_dropout_channels(x, self.p, key, self._spatial_axes)


def check_has_channels(x: mx.array) -> None:
    """Raises for a scalar."""
    if x.ndim == 0:
        raise ValueError(
            "Received a scalar. Expected an input whose last axis are the channels."
        )
