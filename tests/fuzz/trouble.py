"""Programs that crash or hang, to see that this is caught."""

import signal
import time


class Trouble:
    """Crashes for seed 0, hangs for any other."""

    def __init__(self, seed, *, compiles=True):
        self.seed = seed

    def limit(self, error=None):
        return None

    def run(self):
        if self.seed == 0:
            signal.raise_signal(signal.SIGFPE)
        time.sleep(1000)
