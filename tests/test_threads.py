"""Tools on one model that threads share, and what plain calls meanwhile may do."""

import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from chandrop.nn import Dropout, check_step, checkpoint, functional_call
from chandrop.uncertainty import predict, sample


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


def in_another_thread(call):
    """Calls a function, and gives the message of its RuntimeError."""
    messages = []

    def run():
        try:
            call()
        except RuntimeError as error:
            messages.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return messages


@pytest.mark.parametrize("tool", ["check_step", "checkpoint", "predict"])
def test_a_plain_call_while_a_tool_changes_the_model(tool, key):
    model, x, messages = nn.Sequential(nn.Linear(3, 3), Dropout(0.5)), mx.ones((2, 3)), []

    def meanwhile(x):
        if tool != "checkpoint" or messages or layer_is_recomputed:
            messages.extend(in_another_thread(lambda: model.layers[1](x)))
        layer_is_recomputed.append(True)
        return x

    layer_is_recomputed = []
    model.layers.append(meanwhile)
    if tool == "check_step":
        check_step(model, model, x)
    elif tool == "checkpoint":
        mx.grad(lambda x: checkpoint(model)(x).sum())(x)
    else:
        predict(model, mx.random.split(key, 2), x)
    assert messages
    assert all("while another thread calls its model" in message for message in messages)
    model.layers[1](x)


def test_a_plain_call_in_another_thread_meanwhile(key):
    """The keys that it would draw by are those of the tool's call."""

    class Waiting(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = Dropout(0.5)

        def __call__(self, x):
            messages.extend(in_another_thread(lambda: self.dropout(x)))
            assert not in_another_thread(lambda: self.dropout(x, key=key))
            return self.dropout(x)

    model, x, messages = Waiting(), mx.ones((2, 3)), []
    functional_call(model, {}, x, key=key)
    (message,) = messages
    assert "while another thread calls its model" in message
    assert "copy.deepcopy(model)" in message
    model.dropout(x)
    with pytest.raises(ValueError, match="is not in the module"):
        functional_call(nn.Sequential(Dropout(), model.dropout.__call__), {}, x, key=key)
    model.dropout(x)


def test_a_thread_waits_before_it_looks_into_the_model(key):
    """Another may be restoring it: its lists and dicts are then empty for a moment."""
    asked, x, keys = [], mx.ones((2, 3)), mx.random.split(key, 2)

    def choose(path, layer):
        asked.append(path)
        return True

    def meanwhile(x):
        if not thread.is_alive() and not asked:
            thread.start()
            thread.join(0.2)
            assert not asked
        return x

    model = nn.Sequential(nn.Linear(3, 3), Dropout(0.5), meanwhile)
    thread = threading.Thread(
        target=lambda: sample(model, keys, x, dropout=choose), daemon=True
    )
    functional_call(model, {}, x, key=key)
    thread.join()
    assert set(asked) == {"layers.1"}
