"""Pure functions of an input, a dropout rate and a key: same arguments, same bits."""

from chandrop.functional._channel_mask import channel_mask
from chandrop.functional._dropout_channels import dropout_channels
from chandrop.functional._layouts import dropout, dropout1d, dropout2d, dropout3d

__all__ = [
    "channel_mask",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_channels",
]
