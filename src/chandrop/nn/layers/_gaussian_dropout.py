from chandrop.functional import gaussian_dropout_channels
from chandrop.nn.layers._channel_layer import ChannelLayer


class GaussianDropout(ChannelLayer):
    """Multiplies by normal draws of mean 1 and variance ``p / (1 - p)``, for any layout.

    The noise has the mean and the variance of dropout at the rate `p`.
    ``GaussianDropout(p, spatial_axes=(1, 2))`` draws once per channel of each image. See
    :func:`chandrop.functional.gaussian_dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import GaussianDropout
        >>> GaussianDropout(p=0.1)(mx.ones((8, 128))).shape
        (8, 128)
    """

    on_channels = "multiplies"
    _function = staticmethod(gaussian_dropout_channels)
