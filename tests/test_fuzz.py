"""A few of the random programs that ``make fuzz`` runs, without compiling."""

import pytest
from fuzz.programs import run_program

PROGRAMS = {"composition": 200, "model": 50}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_random_programs(kind):
    outcomes = [run_program(kind, seed, compiles=False) for seed in range(PROGRAMS[kind])]
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    assert not failures, f"{len(failures)} failed, the first of them: {failures[0]}"
    at_limits = sum(outcome.limit is not None for outcome in outcomes)
    assert at_limits < PROGRAMS[kind] / 5
