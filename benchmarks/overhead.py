"""What the pipeline costs over a hand-written script: `make bench-overhead`

Clones this repository into a temporary folder and takes turns: `dvc repro` of the default task from
nothing, and `benchmarks/by_hand.py`, each as whole processes; then `dvc repro` with nothing to do.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure, close

REPOSITORY = Path(__file__).parent.parent
ROUNDS = 3


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="perennial-overhead-"))
    try:
        clone = home / "clone"
        run(home, "git", "clone", "--quiet", str(REPOSITORY), str(clone))
        # A clone without the runs, data and caches of this folder: all is made from nothing.
        shutil.rmtree(clone / "data", ignore_errors=True)
        pairs = [(by_dvc(clone), by_script(clone, home / f"hand{i}")) for i in range(ROUNDS)]
        idle = [run(clone, dvc(), "repro", "--quiet", "evaluate@flights") for _ in range(ROUNDS)]
    finally:
        shutil.rmtree(home)
    for (dvc_wall, dvc_cpu), (script_wall, script_cpu) in pairs:
        print(
            f"dvc repro {dvc_wall:6.1f} s ({dvc_cpu:.1f} cpu)   "
            f"by hand {script_wall:6.1f} s ({script_cpu:.1f} cpu)"
        )
    wall = statistics.median(a[0] / b[0] for a, b in pairs)
    processor = statistics.median(a[1] / b[1] for a, b in pairs)
    nothing = statistics.median(seconds for _, seconds in idle)
    close(
        "overhead",
        [
            Figure("dvc repro over one script, wall", wall, 1.5, "at most"),
            Figure("dvc repro over one script, processor", processor, 1.5, "at most"),
            Figure("dvc repro with nothing to do, processor seconds", nothing, 2.0, "at most"),
        ],
        {"pairs": pairs, "idle": idle},
    )  # fmt: skip


def dvc() -> str:
    return str(Path(sys.executable).with_name("dvc"))


def by_dvc(clone: Path) -> tuple[float, float]:
    for made in (
        clone / "data",
        clone / ".mlflow",
        clone / ".perennial",
        clone / "dvc.lock",
        clone / ".dvc" / "cache",
        clone / ".dvc" / "tmp",
    ):
        shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink(missing_ok=True)
    return run(clone, dvc(), "repro", "--quiet", "evaluate@flights")


def by_script(clone: Path, here: Path) -> tuple[float, float]:
    here.mkdir()
    return run(here, sys.executable, "-m", "benchmarks.by_hand", str(clone), str(here))


def run(where: Path, *command: str) -> tuple[float, float]:
    """(wall, processor) seconds of the whole process and its children."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    environment.pop("PERENNIAL_ROOT", None)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
