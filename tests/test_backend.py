"""On Linux without a backend, the import says which extra to install."""

import subprocess
import sys

SCRIPT = """
import sys
class NoBackend:
    def find_spec(self, name, path=None, target=None):
        if name == "mlx.core":
            raise ImportError("libmlx.so: cannot open shared object file")
sys.meta_path.insert(0, NoBackend())
import chandrop
"""


def test_import_without_a_backend():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert run.returncode == 1
    assert "ImportError: chandrop needs MLX with a backend" in run.stderr
    assert 'pip install "chandrop[cpu]"' in run.stderr
    assert "libmlx.so: cannot open shared object file" in run.stderr
