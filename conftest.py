"""Runs the snippets of the README and of docs/, in order, as a reader pastes them.

Each page is one namespace, in a folder of its own. What a block prints is compared with the
indented lines that follow it, if any do.
"""

import os
import re
import tempfile
from contextlib import redirect_stdout
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from importlib.util import find_spec
from io import StringIO

from compiler import mx_compiles
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

INDENTED = re.compile(r"\n+( {4}.*\n(?:\n? {4}.*\n)*)")
NUMBER = re.compile(r"-?\d+(\.\d+)?")


def setup(namespace):
    namespace["mx_compiles"] = mx_compiles()
    namespace["installed"] = lambda package: find_spec(package) is not None
    namespace["_here"] = os.getcwd()
    namespace["_folder"] = tempfile.TemporaryDirectory()
    os.chdir(namespace["_folder"].name)


def teardown(namespace):
    os.chdir(namespace["_here"])
    namespace["_folder"].cleanup()


def run(block):
    """Runs a block, and returns what is wrong with what it prints."""
    with redirect_stdout(StringIO()) as output:
        PythonEvaluator()(block)
    says = INDENTED.match(block.document.text, block.region.end)
    if says is None:
        return None
    # The numbers of a training differ by machine; the page wraps what is printed in a line.
    expected, printed = (NUMBER.sub("0", text) for text in (says[1], output.getvalue()))
    options = ELLIPSIS | NORMALIZE_WHITESPACE
    if OutputChecker().check_output(expected, printed, options):
        return None
    return f"The page says:\n{says[1]}\nThe block prints:\n{output.getvalue()}"


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", run), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/moving/*.md"],
    setup=setup,
    teardown=teardown,
).pytest()
