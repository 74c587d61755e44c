"""Layers that hold a key: drop-in for those of ``mlx.nn``."""

from chandrop.nn._channel_dropout import ChannelDropout
from chandrop.nn._layouts import Dropout, Dropout1d, Dropout2d, Dropout3d

__all__ = ["ChannelDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d"]
