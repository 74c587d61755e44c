"""Thin networks: a fixed number is kept, so that what is dropped is not computed."""

from chandrop._home import set_home
from chandrop.thin._keep_channels import keep_channels
from chandrop.thin._patch_dropout import PatchDropout, patch_dropout
from chandrop.thin._thin_drop_path import ThinDropPath, thin_drop_path
from chandrop.thin._thin_dropout import ThinDropout, thin_dropout_channels
from chandrop.thin._thin_sequential import ThinSequential

__all__ = [
    "PatchDropout",
    "ThinDropPath",
    "ThinDropout",
    "ThinSequential",
    "keep_channels",
    "patch_dropout",
    "thin_drop_path",
    "thin_dropout_channels",
]

set_home(__name__, *(globals()[name] for name in __all__))
