"""No member is public without the laws, and a place in the docs."""

from pathlib import Path

import pytest
from models import MODELS
from subjects import LAYERS, SUBJECTS

import chandrop
from chandrop.nn import KeyedLayer

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page.read_text() for page in ROOT.glob("docs/*.md")}
FAULTS = (ROOT / "tests" / "mutants.toml").read_text()
BASES = {"DropoutLayer", "KeyedLayer"}
# Those whose calls are of another kind, and the file that states the laws for them.
OTHER_LAWS = {
    "concrete_dropout_channels": "test_concrete_dropout.py",
    "concrete_regularizer": "test_concrete_dropout.py",
    "dropout_attention": "test_attention.py",
    "ThinDropPath": "test_thin_drop_path.py",
}


def functions():
    return sorted(set(chandrop.functional.__all__) - {"Rate"})


def layers():
    return sorted(
        name
        for package in (chandrop.nn, chandrop.thin)
        for name in package.__all__
        if isinstance(value := getattr(package, name), type)
        and issubclass(value, KeyedLayer)
        and name not in BASES
    )


def other_laws(name):
    return (ROOT / "tests" / OTHER_LAWS[name]).read_text() if name in OTHER_LAWS else ""


@pytest.mark.parametrize("name", functions())
def test_a_function_obeys_the_laws(name):
    tried = {subject.name.split(":")[0] for subject in SUBJECTS}
    assert name in tried or name in other_laws(name)


@pytest.mark.parametrize("name", layers())
def test_a_layer_obeys_the_laws_with_its_own_key(name):
    built = [layer.name for layer in LAYERS]
    built += [str(model.make()) for model in MODELS]
    assert any(f"{name}(" in layer for layer in built) or name in other_laws(name)


@pytest.mark.parametrize("name", [*functions(), *layers()])
def test_a_page_names_it(name):
    assert any(f"`{name}" in page or f"{name}(" in page for page in PAGES.values())


@pytest.mark.parametrize("name", functions())
def test_a_function_has_a_fault_that_a_test_notices(name):
    path = Path(getattr(chandrop.functional, name).__code__.co_filename)
    assert f'file = "functional/{path.name}"' in FAULTS
