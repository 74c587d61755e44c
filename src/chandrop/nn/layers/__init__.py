"""Layers that hold a key."""

from chandrop.nn.layers._alpha_dropout import AlphaDropout
from chandrop.nn.layers._channel_dropout import ChannelDropout
from chandrop.nn.layers._concrete_dropout import ConcreteDropout
from chandrop.nn.layers._drop_block import DropBlock
from chandrop.nn.layers._drop_path import DropPath
from chandrop.nn.layers._dropout_layer import DropoutLayer
from chandrop.nn.layers._gaussian_dropout import GaussianDropout
from chandrop.nn.layers._keyed_layer import KeyedLayer
from chandrop.nn.layers._layouts import Dropout, Dropout1d, Dropout2d, Dropout3d

__all__ = [
    "AlphaDropout",
    "ChannelDropout",
    "ConcreteDropout",
    "DropBlock",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutLayer",
    "GaussianDropout",
    "KeyedLayer",
]
