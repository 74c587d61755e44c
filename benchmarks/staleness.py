"""Prints how many commits to src/ the stored figures are behind.

Needs nothing but Python and git. It never fails: without git, in a shallow clone, or for
figures that name no commit, it prints "unknown".
"""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def git(*arguments: str, checkout: Path = ROOT) -> str | None:
    """Returns what git prints, or None if it fails."""
    command = ["git", "-C", str(checkout), *arguments]
    try:
        finished = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return finished.stdout.strip() if finished.returncode == 0 else None


def staleness(path: Path) -> str:
    try:
        results = json.loads(path.read_text())
    except ValueError:
        results = {}
    commit = results.get("commit")
    count = git("rev-list", "--count", f"{commit}..HEAD", "--", "src") if commit else None
    if count is None:
        return "unknown"
    changed = ", measured with uncommitted changes" if results.get("dirty") else ""
    return f"{count} commits behind{changed}"


def main() -> None:
    for path in sorted(RESULTS.glob("*.json")):
        print(f"{path.stem}: {staleness(path)}")


if __name__ == "__main__":
    main()
