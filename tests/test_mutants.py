"""The faults of mutants.toml fit the source and the tests; ``make mutants`` runs them."""

import re
from collections import Counter
from functools import cache

import pytest
from mutants import PACKAGE, ROOT, read_mutants

MUTANTS = read_mutants()
of_all = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)


@cache
def text_of(path):
    return path.read_text() if path.exists() else ""


@of_all
def test_the_source_has_what_is_replaced_once(mutant):
    text = text_of(ROOT / PACKAGE / mutant.file)
    assert text, f"src/chandrop/{mutant.file} does not exist"
    assert text.count(mutant.right) == 1
    assert mutant.wrong != mutant.right


@of_all
def test_the_test_exists(mutant):
    file, function = mutant.test.split("::")
    assert re.search(rf"^def {function}\(", text_of(ROOT / "tests" / file), re.MULTILINE)


def test_no_fault_is_listed_twice():
    names = Counter(mutant.fault for mutant in MUTANTS)
    changes = Counter((mutant.file, mutant.right, mutant.wrong) for mutant in MUTANTS)
    assert [twice for twice, times in (names + changes).items() if times > 1] == []
