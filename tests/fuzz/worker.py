"""A process that runs programs, so that a crash or a hang is that of one seed."""

import multiprocessing
import os
import signal
import tempfile
from contextlib import suppress

from fuzz.programs import Outcome, run_program

_SPAWN = multiprocessing.get_context("spawn")


class Worker:
    """Runs programs in a process of its own, and starts another one where that ends.

    Args:
        timeout: the seconds after which a program hangs.
    """

    def __init__(self, timeout):
        self._timeout = timeout
        self._process = None
        # Two processes must not compile one kernel into one file at the same time.
        self._folder = tempfile.TemporaryDirectory()

    def run(self, kind, seed, *, compiles):
        """Gives the outcome of a program, whatever it does to the process."""
        if self._process is None:
            self._start()
        self._connection.send((kind, seed, compiles))
        try:
            if self._connection.poll(self._timeout):
                return self._connection.recv()
            failure = f"no end within {self._timeout} seconds"
        except (EOFError, ConnectionError):
            self._process.join()
            failure = f"the process ended: {_ending(self._process.exitcode)}"
        self._stop()
        return Outcome(failure=failure)

    def close(self):
        if self._process is not None:
            self._stop()
        self._folder.cleanup()

    def _start(self):
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=_serve, args=(theirs, self._folder.name), daemon=True
        )
        self._process.start()
        theirs.close()

    def _stop(self):
        self._connection.close()
        self._process.kill()
        self._process.join()
        self._process = None


def _serve(connection, folder):
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    # Until the other end is closed.
    with suppress(EOFError, ConnectionError):
        while True:
            kind, seed, compiles = connection.recv()
            connection.send(run_program(kind, seed, compiles=compiles))


def _ending(exitcode):
    return signal.Signals(-exitcode).name if exitcode < 0 else f"exit status {exitcode}"
