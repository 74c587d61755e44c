"""Dropout whose rate is learned, under the names of the layouts."""

import math

import mlx.core as mx

from chandrop import functional
from chandrop.functional._arguments import as_positive, as_rate
from chandrop.nn._channel_layer import LayoutLayer


class _ConcreteLayer(LayoutLayer):
    """A layer whose rate is the sigmoid of its parameter ``logit``."""

    def __init__(
        self,
        p: float | mx.array = 0.1,
        *,
        temperature: float = 0.1,
        key: mx.array | None = None,
    ):
        super().__init__(p, key=key)
        self._temperature = as_positive(temperature, "temperature")

    @property
    def p(self) -> mx.array:
        """The rate that has been learned so far."""
        return mx.sigmoid(self.logit)

    @p.setter
    def p(self, p: float | mx.array) -> None:
        rate = as_rate(p)
        if isinstance(rate, mx.array):
            self.logit = mx.log(rate) - mx.log1p(-rate)
        elif 0 < rate < 1:
            # A number is for all channels, however many rates there are.
            shape = self.logit.shape if "logit" in self else ()
            self.logit = mx.full(shape, math.log(rate) - math.log1p(-rate))
        else:
            raise ValueError(
                f"Received p = {p}. Expected 0 < p < 1, to begin with: a rate of 0 or 1 "
                "has an infinite logit, and would not be learned."
            )

    def regularizer(self, weight: mx.array, length_scale: float) -> mx.array:
        """Gives what the layer adds to the loss, times the number of training examples.

        Args:
            weight: the weights of the layer that reads this one's output, ``(..., C)``.
            length_scale: the prior length scale, above 0.

        Returns:
            One number, in nats, to be divided by the number of training examples.

        Raises:
            TypeError: see :func:`chandrop.functional.concrete_regularizer`.
            ValueError: see :func:`chandrop.functional.concrete_regularizer`.
        """
        return functional.concrete_regularizer(self.logit, weight, length_scale)

    def _drop(self, x: mx.array, key: mx.array) -> mx.array:
        return functional.concrete_dropout_channels(
            x, self.logit, key, self._spatial_axes, temperature=self._temperature
        )

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}, temperature={self._temperature}"


class ConcreteDropout(_ConcreteLayer):
    r"""Drops elements at a rate that is learned.

    The rate is that of the parameter ``logit``, :math:`\log\frac{p}{1-p}`, which an
    optimizer trains, ``freeze`` freezes and weights files hold. Add :meth:`regularizer` to
    the loss: without it, the rate goes to 0.

    Args:
        p: the rate to begin with: a number in ``(0, 1)``, or for more than one an array of
            such numbers that broadcasts to the shape of the input. Default: ``0.1``.
        temperature: how far from 0 and 1 the relaxed draws are. Default: ``0.1``.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`.

    Shape:
        Input and output: any shape, of a floating-point or complex dtype.

    Raises:
        TypeError: `temperature` is not a number; see :class:`Dropout`.
        ValueError: `p` is a number outside ``(0, 1)``, or `temperature` is not above 0; see
            :class:`Dropout`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import ConcreteDropout
        >>> layer = ConcreteDropout(p=mx.full((16,), 0.1))
        >>> layer(mx.ones((8, 16))).shape
        (8, 16)
        >>> layer.parameters()["logit"].shape
        (16,)

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017; see
    :func:`chandrop.functional.concrete_dropout_channels`.
    """

    _spatial_axes = ()


class ConcreteDropout1d(_ConcreteLayer):
    r"""Drops channels of sequences at a rate that is learned.

    The rate is that of the parameter ``logit``, :math:`\log\frac{p}{1-p}`, which an
    optimizer trains, ``freeze`` freezes and weights files hold. Add :meth:`regularizer` to
    the loss: without it, the rate goes to 0.

    Args:
        p: the rate to begin with: a number in ``(0, 1)``, or for more than one an array of
            such numbers that broadcasts to ``(N, 1, C)``, such as ``(C,)``. Default:
            ``0.1``.
        temperature: how far from 0 and 1 the relaxed draws are. Default: ``0.1``.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`.

    Shape:
        Input and output: ``NLC`` or ``LC``, of a floating-point or complex dtype.

    Raises:
        TypeError: `temperature` is not a number; see :class:`Dropout`.
        ValueError: `p` is a number outside ``(0, 1)``, or `temperature` is not above 0; see
            :class:`Dropout`; the input has another rank.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import ConcreteDropout1d
        >>> layer = ConcreteDropout1d(p=mx.full((16,), 0.1))
        >>> layer(mx.ones((8, 100, 16))).shape
        (8, 100, 16)
        >>> layer.parameters()["logit"].shape
        (16,)

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017; see
    :func:`chandrop.functional.concrete_dropout_channels`.
    """

    _spatial_axes = (-2,)


class ConcreteDropout2d(_ConcreteLayer):
    r"""Drops channels of images at a rate that is learned.

    The rate is that of the parameter ``logit``, :math:`\log\frac{p}{1-p}`, which an
    optimizer trains, ``freeze`` freezes and weights files hold. Add :meth:`regularizer` to
    the loss: without it, the rate goes to 0.

    Args:
        p: the rate to begin with: a number in ``(0, 1)``, or for more than one an array of
            such numbers that broadcasts to ``(N, 1, 1, C)``, such as ``(C,)``. Default:
            ``0.1``.
        temperature: how far from 0 and 1 the relaxed draws are. Default: ``0.1``.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`.

    Shape:
        Input and output: ``NHWC`` or ``HWC``, of a floating-point or complex dtype.

    Raises:
        TypeError: `temperature` is not a number; see :class:`Dropout`.
        ValueError: `p` is a number outside ``(0, 1)``, or `temperature` is not above 0; see
            :class:`Dropout`; the input has another rank.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import ConcreteDropout2d
        >>> layer = ConcreteDropout2d(p=mx.full((16,), 0.1))
        >>> layer(mx.ones((8, 28, 28, 16))).shape
        (8, 28, 28, 16)
        >>> layer.parameters()["logit"].shape
        (16,)

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017; see
    :func:`chandrop.functional.concrete_dropout_channels`.
    """

    _spatial_axes = (-3, -2)


class ConcreteDropout3d(_ConcreteLayer):
    r"""Drops channels of volumes at a rate that is learned.

    The rate is that of the parameter ``logit``, :math:`\log\frac{p}{1-p}`, which an
    optimizer trains, ``freeze`` freezes and weights files hold. Add :meth:`regularizer` to
    the loss: without it, the rate goes to 0.

    Args:
        p: the rate to begin with: a number in ``(0, 1)``, or for more than one an array of
            such numbers that broadcasts to ``(N, 1, 1, 1, C)``, such as ``(C,)``. Default:
            ``0.1``.
        temperature: how far from 0 and 1 the relaxed draws are. Default: ``0.1``.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`.

    Shape:
        Input and output: ``NDHWC`` or ``DHWC``, of a floating-point or complex dtype.

    Raises:
        TypeError: `temperature` is not a number; see :class:`Dropout`.
        ValueError: `p` is a number outside ``(0, 1)``, or `temperature` is not above 0; see
            :class:`Dropout`; the input has another rank.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import ConcreteDropout3d
        >>> layer = ConcreteDropout3d(p=mx.full((16,), 0.1))
        >>> layer(mx.ones((2, 8, 14, 14, 16))).shape
        (2, 8, 14, 14, 16)
        >>> layer.parameters()["logit"].shape
        (16,)

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017; see
    :func:`chandrop.functional.concrete_dropout_channels`.
    """

    _spatial_axes = (-4, -3, -2)
