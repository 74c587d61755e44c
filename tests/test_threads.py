"""Tools on one model that threads share, and what plain calls meanwhile may do."""

import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from chandrop.nn import Dropout, functional_call


def test_tools_in_eight_threads_give_the_bits_of_one():
    """Without a lock: wrong numbers, destroyed models, segmentation faults."""
    finished = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("threads.py"))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.stdout == "the bits of one thread\n", finished.stderr
    assert finished.returncode == 0


def test_a_plain_call_in_another_thread_meanwhile(key):
    """The keys that it would draw by are those of the tool's call."""

    class Waiting(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = Dropout(0.5)

        def __call__(self, x):
            thread = threading.Thread(target=plain_call)
            thread.start()
            thread.join()
            return self.dropout(x)

    model, x, errors = Waiting(), mx.ones((2, 3)), []

    def plain_call():
        try:
            model.dropout(x)
        except RuntimeError as error:
            errors.append(str(error))

    functional_call(model, {}, x, key=key)
    (message,) = errors
    assert "while another thread calls its model" in message
    assert "copy.deepcopy(model)" in message
    model.dropout(x)
    with pytest.raises(ValueError, match="is not in the module"):
        functional_call(nn.Sequential(Dropout(), model.dropout.__call__), {}, x, key=key)
    model.dropout(x)
