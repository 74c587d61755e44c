"""Layers that hold a key, and tools for whole models of them.

The layers take the place of those of ``mlx.nn``. The tools make any model a pure function
of parameters, key and input.
"""

from chandrop.nn._alpha_dropout import (
    AlphaDropout,
    AlphaDropout1d,
    AlphaDropout2d,
    AlphaDropout3d,
)
from chandrop.nn._channel_dropout import ChannelDropout
from chandrop.nn._check_step import check_step
from chandrop.nn._checkpoint import checkpoint
from chandrop.nn._concrete_dropout import (
    ConcreteDropout,
    ConcreteDropout1d,
    ConcreteDropout2d,
    ConcreteDropout3d,
)
from chandrop.nn._convert import convert, revert
from chandrop.nn._drop_block import DropBlock2d, DropBlock3d
from chandrop.nn._drop_path import DropPath
from chandrop.nn._functional_call import functional_call
from chandrop.nn._gaussian_dropout import (
    GaussianDropout,
    GaussianDropout1d,
    GaussianDropout2d,
    GaussianDropout3d,
)
from chandrop.nn._layouts import Dropout, Dropout1d, Dropout2d, Dropout3d
from chandrop.nn._model_keys import get_keys, rekey, set_keys
from chandrop.nn._stack_parameters import stack_parameters
from chandrop.nn._thin_drop_path import ThinDropPath
from chandrop.nn._thin_dropout import ThinDropout
from chandrop.nn._thin_sequential import ThinSequential
from chandrop.nn._transforms import wrap_transforms

__all__ = [
    "AlphaDropout",
    "AlphaDropout1d",
    "AlphaDropout2d",
    "AlphaDropout3d",
    "ChannelDropout",
    "ConcreteDropout",
    "ConcreteDropout1d",
    "ConcreteDropout2d",
    "ConcreteDropout3d",
    "DropBlock2d",
    "DropBlock3d",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "GaussianDropout",
    "GaussianDropout1d",
    "GaussianDropout2d",
    "GaussianDropout3d",
    "ThinDropPath",
    "ThinDropout",
    "ThinSequential",
    "check_step",
    "checkpoint",
    "convert",
    "functional_call",
    "get_keys",
    "rekey",
    "revert",
    "set_keys",
    "stack_parameters",
    "wrap_transforms",
]

wrap_transforms()
