"""Random keys: what counts as a key, and how one key becomes many."""

from chandrop._home import set_home
from chandrop.random._check_key import Key, check_key
from chandrop.random._example_keys import example_keys
from chandrop.random._fold_in import fold_in

__all__ = ["Key", "check_key", "example_keys", "fold_in"]

set_home(__name__, check_key, example_keys, fold_in)
