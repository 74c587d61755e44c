"""Runs the README's snippets, in order and in one namespace, as a reader pastes them."""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["README.md"]
).pytest()
