"""Breaks the source on purpose, one fault at a time: the test named for it must fail.

Run it with ``python tests/mutants.py``. The faults are in mutants.toml.

Some of these tests need a C++ compiler, as ``mx.compile`` does on the CPU.
"""

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from tqdm import tqdm

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src", "chandrop")
NEEDED = ("src", "tests", "pyproject.toml", "conftest.py")
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
# A test fails, or divides by zero in MLX, which ends the process.
CAUGHT = (1, -8)


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file`, `right` becomes `wrong`, and `test` must fail."""

    fault: str
    file: str
    right: str
    wrong: str
    test: str

    def __str__(self) -> str:
        return f"{self.file}: {self.fault}  ({self.test})"

    def is_stale(self) -> bool:
        """Whether the source no longer has what would be replaced, or more than once."""
        path = ROOT / PACKAGE / self.file
        return not path.exists() or path.read_text().count(self.right) != 1


def read_mutants() -> list[Mutant]:
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    return [Mutant(**table) for table in tables["mutant"]]


def make_copy(root: Path) -> Path:
    """Copies what the tests need."""
    # MLX compiles kernels into the temporary folder: two processes must not share one.
    (root / "tmp").mkdir(parents=True)
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest in a copy."""
    return subprocess.run(
        [*PYTEST, *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "src"), "TMPDIR": str(root / "tmp")},
        capture_output=True,
        text=True,
    )


def write(path: Path, text: str) -> None:
    path.write_text(text)
    # Python takes a cached file for this one's if size and second of the change agree.
    Path(cache_from_source(str(path))).unlink(missing_ok=True)


def survives(mutant: Mutant, copies: SimpleQueue[Path]) -> bool:
    """Breaks one of the copies, and says whether the mutant's test passes on it."""
    root = copies.get()
    path = root / PACKAGE / mutant.file
    sound = path.read_text()
    try:
        write(path, sound.replace(mutant.right, mutant.wrong))
        result = run(root, "-x", f"tests/{mutant.test}")
    finally:
        write(path, sound)
        copies.put(root)
    if result.returncode not in (0, *CAUGHT):
        raise RuntimeError(f"{mutant}\n{result.stdout}{result.stderr}")
    return result.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--file", default="", help="only faults of these files: part of a path, or a glob"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()

    mutants = [m for m in read_mutants() if fnmatch(m.file, f"*{options.file}*")]
    stale = [mutant for mutant in mutants if mutant.is_stale()]
    for mutant in stale:
        print(f"STALE     {mutant}")
    mutants = [mutant for mutant in mutants if mutant not in stale]
    if not mutants:
        sys.exit("There is no fault to try.")

    with TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        roots = [make_copy(Path(folder, str(number))) for number in range(options.jobs)]
        for root in roots:
            copies.put(root)
        tests = sorted({f"tests/{mutant.test}" for mutant in mutants})
        workers = ("--numprocesses", str(options.jobs), "--dist", "loadfile")
        sound = run(roots[0], *workers, *tests)
        if sound.returncode:
            sys.exit(f"{sound.stdout}{sound.stderr}\nTests fail on the source as it is.")
        survivors = 0
        tried = {pool.submit(survives, mutant, copies): mutant for mutant in mutants}
        try:
            for future in tqdm(as_completed(tried), total=len(tried), unit="fault"):
                if future.result():
                    survivors += 1
                    tqdm.write(f"SURVIVED  {tried[future]}")
        except BaseException as error:
            pool.shutdown(cancel_futures=True)
            sys.exit(str(error) or type(error).__name__)
    caught = len(mutants) - survivors
    print(f"{caught} caught, {survivors} survived, {len(stale)} stale")
    sys.exit(bool(survivors or stale))


if __name__ == "__main__":
    main()
