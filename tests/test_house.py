"""How the package is built: who may import whom, and how its public names present it."""

import ast
import importlib
import inspect
from pathlib import Path

import mlx.core as mx
import pytest

import chandrop

ROOT = Path(chandrop.__file__).parent
# From the bottom to the top: each may import those before it. The private modules at the
# top of chandrop are the ground on which all of them stand.
ORDER = ["random", "functional", "nn", "thin", "uncertainty"]
# Which package imports a private module of another one, and why that is right.
EXCEPTIONS = {
    ("thin", "nn._call_context"): (
        "A thin layer chooses channels without a call of its own, so it has to tell the "
        "recomputation of a checkpoint itself that it is there."
    ),
    ("uncertainty", "nn.tools._purity"): (
        "The check that a function of a key is pure looks into models, as the other tools "
        "do, but users have no use for it."
    ),
    ("uncertainty", "nn.tools._subnetworks"): (
        "The subnetworks of a model are one more tool for whole models, which users have "
        "through sample and predict."
    ),
}


def name_of(path):
    """The name of a module within chandrop: ``nn.layers._drop_path``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def package_of(module):
    """The package that a module is in; "" for the modules at the top of chandrop."""
    first = module.split(".")[0]
    return first if first in ORDER else ""


def imports_of(module):
    """The modules of chandrop that a module imports, wherever in it, one by one."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                inner = whole.removeprefix("chandrop.")
                found.add(whole if inner in MODULES else node.module)
    inside = {name for name in found if name.split(".")[0] == "chandrop"}
    return {name.removeprefix("chandrop").removeprefix(".") for name in inside}


IMPORTS = {module: imports_of(module) for module in MODULES}


def test_the_packages_are_those_that_there_are():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(ORDER) == set(chandrop.__all__)
    assert len(MODULES) > 50
    assert "random" in IMPORTS["functional._dropout_channels"]
    assert "_checks" in IMPORTS["nn.layers._drop_path"]


def test_imports_go_down():
    """From a package to those below it, and from a module at the top to no package."""
    for module, imported in IMPORTS.items():
        package = package_of(module)
        if module == "":
            # For type checkers: the packages are loaded when they are first used.
            assert imported == set(ORDER)
            continue
        place = ORDER.index(package) if package else -1
        for other in imported:
            if package_of(other):
                assert ORDER.index(package_of(other)) <= place, f"{module}: {other}"
            else:
                assert other in MODULES
                assert other, f"{module} imports chandrop itself"


def test_modules_at_the_top_do_not_need_one_another_in_a_circle():
    top = {m for m in MODULES if m and not package_of(m)}
    needed = {module: IMPORTS[module] & top for module in top}
    while needed:
        free = {module for module, others in needed.items() if not others & needed.keys()}
        assert free, f"these import one another: {sorted(needed)}"
        needed = {module: needed[module] for module in needed.keys() - free}


def test_private_modules_are_for_their_own_package():
    """But for a few exceptions, each with its reason; there may be four."""
    found = {
        (package_of(module), other)
        for module, imported in IMPORTS.items()
        for other in imported
        if package_of(other) not in ("", package_of(module))
        if any(part.startswith("_") for part in other.split("."))
    }
    assert found == EXCEPTIONS.keys()
    assert len(EXCEPTIONS) <= 4
    assert all(len(reason) > 40 for reason in EXCEPTIONS.values())


def test_other_packages_are_imported_by_their_public_names():
    """From ``chandrop.nn``, not from ``chandrop.nn.layers``, and only names it exports."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            other = node.module.removeprefix("chandrop").removeprefix(".")
            if package_of(other) in ("", package_of(module)) or module == "":
                continue
            if (package_of(module), other) in EXCEPTIONS:
                continue
            assert other in ORDER, f"{module}: {other}"
            public = importlib.import_module(node.module).__all__
            for alias in node.names:
                whole = (package_of(module), f"{other}.{alias.name}")
                assert alias.name in public or whole in EXCEPTIONS, f"{module}: {whole}"


def test_layers_do_not_know_the_tools():
    layers = [module for module in MODULES if module.startswith("nn.layers")]
    assert len(layers) > 10
    for module in layers:
        for other in IMPORTS[module]:
            assert not other.startswith("nn.tools"), f"{module}: {other}"
            assert other != "nn"


def public_names():
    for package in ORDER:
        module = importlib.import_module(f"chandrop.{package}")
        for name in module.__all__:
            yield package, name, getattr(module, name)


# Names of types, which have no module of their own.
ALIASES = {"Key": mx.array, "Rate": float | mx.array}
NAMES = [case for case in public_names() if case[1] not in ALIASES]
each = pytest.mark.parametrize(
    ("package", "name", "member"), NAMES, ids=[f"{p}.{n}" for p, n, _ in NAMES]
)


def test_aliases_are_the_types_that_they_stand_for():
    for _, name, member in public_names():
        if name in ALIASES:
            assert member == ALIASES[name]


@each
def test_public_names_are_at_home_in_their_package(package, name, member):
    assert member.__module__ == f"chandrop.{package}"
    assert member.__name__ == member.__qualname__ == name


def documented(member):
    """A public function or class, and the public members that the class itself defines."""
    yield member
    if not isinstance(member, type):
        return
    for base in member.__mro__:
        if not base.__module__.startswith("chandrop") or "_fields" in vars(base):
            continue
        for name, own in vars(base).items():
            is_code = inspect.isfunction(own) or isinstance(own, property)
            # What a class overrides is documented where it is defined first.
            is_new = not any(name in vars(above) for above in base.__mro__[1:])
            if is_code and is_new and not name.startswith("_"):
                yield own


@each
def test_public_names_have_docstrings(package, name, member):
    """Of the house's style: "Returns", not "Gives", and a sentence to begin with."""
    for documented_member in documented(member):
        # Its own: inspect.getdoc would find that of a base.
        text = documented_member.__doc__
        assert text, f"{name}: {documented_member}"
        first = inspect.cleandoc(text).split("\n\n")[0].replace("\n", " ")
        assert not first.startswith("Gives"), f"{name}: {first}"
        assert first.endswith((".", ":", "`")), f"{name}: {first}"
        assert first[0].isupper(), f"{name}: {first}"


@pytest.mark.parametrize("package", ["", *ORDER])
def test_packages_have_docstrings_and_sorted_names(package):
    module = importlib.import_module(f"chandrop.{package}".removesuffix("."))
    assert module.__doc__.strip().endswith(".")
    assert len(set(module.__all__)) == len(module.__all__)
