"""Layers that hold a key, and tools for whole models of them.

The layers take the place of those of ``mlx.nn``. The tools make any model a pure function
of parameters, key and input.
"""

from chandrop._home import set_home
from chandrop.nn.layers._alpha_dropout import AlphaDropout
from chandrop.nn.layers._attention_dropout import AttentionDropout
from chandrop.nn.layers._channel_dropout import ChannelDropout
from chandrop.nn.layers._concrete_dropout import ConcreteDropout
from chandrop.nn.layers._drop_block import DropBlock
from chandrop.nn.layers._drop_path import DropPath
from chandrop.nn.layers._dropout_layer import DropoutLayer
from chandrop.nn.layers._gaussian_dropout import GaussianDropout
from chandrop.nn.layers._key_stream import KeyStream
from chandrop.nn.layers._keyed_layer import KeyedLayer
from chandrop.nn.layers._layouts import Dropout, Dropout1d, Dropout2d, Dropout3d
from chandrop.nn.layers._multi_head_attention import MultiHeadAttention
from chandrop.nn.layers._weight_dropout import WeightDropout
from chandrop.nn.tools._check_step import check_step
from chandrop.nn.tools._checkpoint import checkpoint
from chandrop.nn.tools._convert import convert, revert
from chandrop.nn.tools._functional_call import functional_call
from chandrop.nn.tools._model_keys import get_keys, rekey, set_keys
from chandrop.nn.tools._stack_parameters import stack_parameters
from chandrop.nn.tools._transforms import wrap_transforms

__all__ = [
    "AlphaDropout",
    "AttentionDropout",
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
    "KeyStream",
    "KeyedLayer",
    "MultiHeadAttention",
    "WeightDropout",
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

set_home(__name__, *(globals()[name] for name in __all__))
wrap_transforms()
