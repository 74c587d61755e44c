"""Tools for whole models."""

from chandrop.nn.tools._check_step import check_step
from chandrop.nn.tools._checkpoint import checkpoint
from chandrop.nn.tools._convert import convert, revert
from chandrop.nn.tools._functional_call import functional_call
from chandrop.nn.tools._model_keys import get_keys, rekey, set_keys
from chandrop.nn.tools._stack_parameters import stack_parameters
from chandrop.nn.tools._transforms import wrap_transforms

__all__ = [
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
