"""Does everything still work with the newest releases? `make newest` writes newest.md.

The newest that fit together are installed into the environment that this runs in, and the fast tests
run in it. Where a tool's newest release does not fit with the rest, that is said, and is no failure: nobody
can install it with this project yet.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

TOOLS = ("apache-airflow", "dvc", "mlflow", "great-expectations", "evidently", "bentoml")
OUT = Path("newest.md")
SHOWN = 60
"""Lines of the tests' output that the page shows: its end, where the failures are told."""


def main(venv: Path) -> int:
    uv = [sys.executable, "-m", "uv"]
    env = os.environ | {"VIRTUAL_ENV": str(venv.resolve())}
    links = os.environ.get("PIP_FIND_LINKS")
    find = ["--find-links", links] if links else []
    install = [*uv, "pip", "install", "--quiet", "--upgrade", *find, "--editable", ".[dev]"]
    made = subprocess.run(install, env=env, stderr=subprocess.PIPE, text=True, check=False)
    if made.returncode:
        return _say(page({}, {}, "They cannot be installed together", made.stderr), 1)
    listed = [*uv, "pip", "list", "--format", "json"]
    there = _versions(subprocess.check_output(listed, env=env))
    behind = _versions(subprocess.check_output([*listed, "--outdated"], env=env), "latest_version")
    (venv / "ready").touch()
    tests = subprocess.run(
        ["make", "--no-print-directory", "test", f"VENV={venv}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    verdict = "The fast tests fail" if tests.returncode else "The fast tests pass"
    return _say(page(there, behind, verdict, tests.stdout), tests.returncode)


def _versions(listed: bytes, key: str = "version") -> dict[str, str]:
    return {one["name"]: one[key] for one in json.loads(listed)}


def locked(lock: str) -> dict[str, str]:
    """Package -> version in a requirements file.

    >>> locked("dvc==3.67.1\\\\nuv==1 ; python_version < '3'")
    {'dvc': '3.67.1', 'uv': '1'}
    """
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock, re.MULTILINE))


def page(there: Mapping[str, str], behind: Mapping[str, str], verdict: str, output: str) -> str:
    """there: package -> installed; behind: package -> newest release, where that is not installed."""
    lock = locked(Path("requirements.lock").read_text(encoding="utf-8"))
    rows = [
        f"| {name} | {lock[name]} | {there.get(name, 'none')} | {behind.get(name, 'the same')} |"
        for name in TOOLS
    ]
    end = "\n".join(output.strip().splitlines()[-SHOWN:]).replace("```", "'''")
    return "\n".join(
        [
            f"{verdict} with the newest releases that fit together. See it with: `make newest`",
            "",
            "| tool | in requirements.lock | tested here | newest release |",
            "|:--|:--|:--|:--|",
            *rows,
            "",
            "```text",
            end,
            "```",
            "",
        ]
    )


def _say(text: str, status: int) -> int:
    OUT.write_text(text, encoding="utf-8")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(text)
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
