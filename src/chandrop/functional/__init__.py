"""Pure functions of an input, a dropout rate and a key: same arguments, same bits."""

from chandrop.functional._alpha_dropout_channels import alpha_dropout_channels
from chandrop.functional._channel_mask import channel_mask
from chandrop.functional._concrete_dropout_channels import concrete_dropout_channels
from chandrop.functional._concrete_regularizer import concrete_regularizer
from chandrop.functional._drop_block import drop_block2d, drop_block3d
from chandrop.functional._drop_path import drop_path
from chandrop.functional._dropout_channels import dropout_channels
from chandrop.functional._gaussian_dropout_channels import gaussian_dropout_channels
from chandrop.functional._keep_channels import keep_channels
from chandrop.functional._layouts import dropout, dropout1d, dropout2d, dropout3d
from chandrop.functional._thin_drop_path import thin_drop_path
from chandrop.functional._thin_dropout_channels import thin_dropout_channels

__all__ = [
    "alpha_dropout_channels",
    "channel_mask",
    "concrete_dropout_channels",
    "concrete_regularizer",
    "drop_block2d",
    "drop_block3d",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_channels",
    "gaussian_dropout_channels",
    "keep_channels",
    "thin_drop_path",
    "thin_dropout_channels",
]
