"""Modules of packages that cannot be imported as a whole.

There is no CPU build of torchvision for every torch, and timm imports torchvision; baal,
torchnlp and torch-uncertainty import much else. What is compared is in modules that need
torch and torchmetrics alone. The packages are installed into a folder of their own, since
torchmetrics imports a torchvision that it finds.
"""

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(sys.prefix, "without_init")  # pip install --no-deps --target


def load_without_init(package, module, **stubs):
    """Loads a module of a package without running any ``__init__`` of the package.

    Args:
        package: the name of the package, such as ``torchvision``.
        module: the module in it, such as ``ops.drop_block``.
        **stubs: for modules that it imports from the package, the names that it needs.
    """
    # Under names of their own: whoever asks for torchvision must not find this.
    root = f"without_init_{package}"
    parents = module.split(".")[:-1]
    for depth in range(len(parents) + 1):
        parent = ModuleType(".".join([root, *parents[:depth]]))
        parent.__path__ = [str(FOLDER.joinpath(package, *parents[:depth]))]
        sys.modules[parent.__name__] = parent
    for name, contents in stubs.items():
        stub = ModuleType(f"{root}.{name}")
        vars(stub).update(contents)
        sys.modules[stub.__name__] = stub
    return importlib.import_module(f"{root}.{module}")


def exports_of(package, module):
    """The names that a package's ``__init__`` imports, without running it."""
    tree = ast.parse((FOLDER / package / module / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return [alias.asname or alias.name for node in imports for alias in node.names]
