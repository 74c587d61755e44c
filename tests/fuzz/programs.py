"""A random program by its seed, and how running it ended."""

import traceback
from dataclasses import dataclass

from fuzz.compositions import Composition
from fuzz.models import ModelUse
from fuzz.trouble import Trouble

KINDS = {"composition": Composition, "model": ModelUse, "trouble": Trouble}


@dataclass(frozen=True)
class Outcome:
    """How a program ended: well, at a limit of MLX, or as it should not."""

    limit: str | None = None
    failure: str | None = None


def run_program(kind, seed, *, compiles):
    """Runs the program of a seed.

    Args:
        kind: ``composition``, ``model``, or ``trouble`` to test the runner.
        seed: what all of the program depends on.
        compiles: whether mx.compile may be in it.
    """
    program = f"The {kind} of seed {seed}, which could not be made"
    try:
        program = KINDS[kind](seed, compiles=compiles)
        limit = program.limit()
        if limit is None:
            program.run()
        return Outcome(limit)
    except Exception as error:
        limit = None if isinstance(program, str) else program.limit(error)
        if limit is not None:
            return Outcome(limit)
        return Outcome(failure=f"{program}\n{traceback.format_exc()}")
