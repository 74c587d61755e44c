from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop._checks import of_type
from chandrop.random import Key
from chandrop.uncertainty._axis_of_examples import AxisOfExamples
from chandrop.uncertainty._sample import (
    KEYS,
    Dropout,
    Network,
    as_function,
    check_keys,
    check_network,
    chunks_of,
)


class Member:
    """A network that predict asks with each key: one alone, or one of an ensemble.

    Attributes:
        name: how an error calls it, such as ``models[1]``; empty for one alone.
        chunks: the keys, some of which are evaluated at a time.
        axis: warns of its layers whose axis 0 is not that of the examples.
        suspicious: whether all its outputs so far look like what they must not be.
        function: the network as a function of a key and inputs, within :meth:`ready`.
    """

    function: Callable[..., Any]

    def __init__(
        self,
        network: Network,
        keys: Key,
        chunk: int | None,
        dropout: Dropout,
        is_whole: bool,
        name: str = "",
    ) -> None:
        self.name = name
        self.axis = AxisOfExamples(name)
        self.suspicious = True
        self._network = network
        self._dropout = dropout
        self._is_whole = is_whole
        with self.named():
            check_network(network, dropout)
            if is_whole and not isinstance(network, nn.Module):
                raise ValueError(
                    "Received no keys for a function. It may draw, and no mode turns that "
                    "off. Give it a key, predict(fn, keys[:1], x), or pass a model."
                )
            self.chunks = chunks_of(keys, chunk, network, dropout)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Makes the network a function; restores a model on exit."""
        network, dropout, observe = self._network, self._dropout, self.axis.observe
        with as_function(network, dropout, observe, self._is_whole) as self.function:
            yield

    @contextmanager
    def named(self) -> Iterator[None]:
        """Names a member of an ensemble in errors."""
        try:
            yield
        except (TypeError, ValueError) as error:
            if not self.name or type(error) not in (TypeError, ValueError):
                raise
            raise type(error)(f"For {self.name}: {error}") from error


def members_of(
    models: Network | Sequence[nn.Module],
    keys: Key | None,
    chunk: int | None,
    dropout: Dropout,
) -> list[Member]:
    """Returns the members of an ensemble, or one network as the only member."""
    is_whole = keys is None
    if is_whole and dropout is not None and dropout is not False:
        raise ValueError(
            f"Received dropout = {dropout!r}, but no keys, so that all dropout is off. "
            f"Give keys: {KEYS}."
        )
    keys = mx.random.key(0)[None] if keys is None else keys  # Whole networks ignore it.
    check_keys(keys, chunk)
    if not isinstance(models, Sequence):
        return [Member(models, keys, chunk, dropout, is_whole)]
    if not models:
        raise ValueError(
            f"Received an empty {type(models).__name__}. Expected at least one model."
        )
    for number, model in enumerate(models):
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"Received models[{number}] {of_type(model)}. Expected an mlx.nn.Module."
            )
    return [
        Member(model, keys, chunk, dropout, is_whole, f"models[{number}]")
        for number, model in enumerate(models)
    ]
