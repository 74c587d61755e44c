"""A few of the random programs that ``make fuzz`` runs, without compiling."""

import pytest
from fuzz.faults import FAULTS, SOURCE
from fuzz.programs import run_program
from fuzz.worker import Worker

PROGRAMS = {"composition": 200, "model": 50}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_random_programs(kind):
    outcomes = [run_program(kind, seed, compiles=False) for seed in range(PROGRAMS[kind])]
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    assert not failures, f"{len(failures)} failed, the first of them: {failures[0]}"
    at_limits = sum(outcome.limit is not None for outcome in outcomes)
    assert at_limits < PROGRAMS[kind] / 5


def test_crashes_and_hangs_are_caught():
    worker = Worker(timeout=60)
    try:
        crashed = worker.run("trouble", 0, compiles=False)
        assert crashed.failure == "the process ended: SIGFPE"
        assert worker.run("composition", 0, compiles=False).failure is None
    finally:
        worker.close()
    worker = Worker(timeout=0.5)
    try:
        hung = worker.run("trouble", 1, compiles=False)
        assert hung.failure == "no end within 0.5 seconds"
    finally:
        worker.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.text)
def test_faults_are_put_into_the_source_as_it_is(fault):
    assert fault.right in (SOURCE / fault.file).read_text()
