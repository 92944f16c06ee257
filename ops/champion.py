"""A champion to deliver: `make champion TASK=flights`.

The registry's own where it has one. Where it has none, as on a fresh machine with no registry
configured, this commit's model becomes it: made again from dvc.lock, and judged by the gate.
"""

from __future__ import annotations

import subprocess
import sys

from pipelines.adapters.registry import CHAMPION, Registry
from pipelines.errors import PipelineError
from pipelines.project import open_project


def main(task: str) -> int:
    version = Registry(open_project(task).at).alias(CHAMPION)
    if version is not None:
        print(f"champion of {task}: version {version}")
        return 0
    perennial = [sys.executable, "-m", "pipelines"]
    for command in (
        ["dvc", "repro", f"evaluate@{task}"],
        [*perennial, "gate", task],
        [*perennial, "promote", task],
    ):
        status = subprocess.run(command, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
