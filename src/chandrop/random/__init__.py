"""Keys: how one random key becomes many, and what counts as a key."""

from chandrop.random._balanced_keys import balanced_keys
from chandrop.random._check_key import check_key
from chandrop.random._example_keys import example_keys
from chandrop.random._fold_in import fold_in

__all__ = ["balanced_keys", "check_key", "example_keys", "fold_in"]
