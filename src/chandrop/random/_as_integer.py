import operator
from typing import Any


def as_integer(number: Any, name: str, expected: str = "an int") -> int:
    """Gives an int, or raises for what is none, bools among it."""
    try:
        integer = operator.index(number)
    except TypeError:
        integer = None
    if integer is None or isinstance(number, bool):
        raise TypeError(
            f"Received {name} of type {type(number).__name__}. Expected {expected}."
        )
    return integer
