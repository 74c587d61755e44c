"""Runs the README's snippets, in order and in one namespace, as a reader pastes them."""

from compiler import mx_compiles
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md"],
    setup=lambda namespace: namespace.update(mx_compiles=mx_compiles()),
).pytest()
