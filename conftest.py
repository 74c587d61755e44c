"""Runs the snippets of the README and of docs/, in order, as a reader pastes them.

Each page is one namespace, in a folder of its own.
"""

import os
import tempfile
from importlib.util import find_spec

from compiler import mx_compiles
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser


def setup(namespace):
    namespace["mx_compiles"] = mx_compiles()
    namespace["installed"] = lambda package: find_spec(package) is not None
    namespace["_here"] = os.getcwd()
    namespace["_folder"] = tempfile.TemporaryDirectory()
    os.chdir(namespace["_folder"].name)


def teardown(namespace):
    os.chdir(namespace["_here"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/moving/*.md"],
    setup=setup,
    teardown=teardown,
).pytest()
