from chandrop.functional import alpha_dropout_channels
from chandrop.nn.layers._channel_layer import ChannelLayer


class AlphaDropout(ChannelLayer):
    """Dropout that keeps mean and variance in networks of SELU, for any layout.

    ``AlphaDropout(p, spatial_axes=(1, 2))`` drops whole channels of images. See
    :func:`chandrop.functional.alpha_dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import AlphaDropout
        >>> AlphaDropout(p=0.1)(mx.ones((8, 128))).shape
        (8, 128)
    """

    # It shifts a dropped channel, so on_channels is not declared.
    _function = staticmethod(alpha_dropout_channels)
