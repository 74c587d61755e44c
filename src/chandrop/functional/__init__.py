"""Pure functions of an input, a dropout rate and a key: same arguments, same bits."""

from chandrop._home import set_home
from chandrop.functional._alpha_dropout_channels import alpha_dropout_channels
from chandrop.functional._concrete_dropout_channels import (
    concrete_dropout_channels,
    concrete_regularizer,
)
from chandrop.functional._drop_block import drop_block
from chandrop.functional._drop_path import drop_path
from chandrop.functional._dropout_attention import dropout_attention
from chandrop.functional._dropout_channels import Rate, channel_mask, dropout_channels
from chandrop.functional._gaussian_dropout_channels import gaussian_dropout_channels
from chandrop.functional._layouts import dropout, dropout1d, dropout2d, dropout3d

__all__ = [
    "Rate",
    "alpha_dropout_channels",
    "channel_mask",
    "concrete_dropout_channels",
    "concrete_regularizer",
    "drop_block",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_attention",
    "dropout_channels",
    "gaussian_dropout_channels",
]

set_home(__name__, *(globals()[name] for name in __all__ if name != "Rate"))
