"""Airflow without its servers: the DAGs loaded as the scheduler loads them, on a database of their own."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

SAID = """#!{python}
import json, os, pathlib, sys
words = sys.argv[1:]
here = pathlib.Path(__file__).parent
with (here / "said.jsonl").open("a") as out:
    out.write(json.dumps({{"words": words, "reason": os.environ.get("REASON", "")}}) + "\\n")
answers = json.loads((here / "answers.json").read_text())
for words_of, answer in answers.items():
    if words_of in " ".join(words):
        print(json.dumps(answer, indent=1))
"""


class Commands:
    """In place of `perennial`: keeps what it was asked, and answers as it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = folder / "perennial"
        script.write_text(SAID.format(python=sys.executable))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.answer({})

    def answer(self, answers: dict[str, Any]) -> None:
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def said(self) -> list[str]:
        return [" ".join(entry["words"]) for entry in self._read()]

    def reasons(self) -> list[str]:
        return [entry["reason"] for entry in self._read()]

    def _read(self) -> list[dict[str, Any]]:
        path = self.folder / "said.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def loaded(home: Path, root: Path) -> Iterator[Any]:
    """The DagBag of the project in `root`, with the repository's DAGs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False", "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home),
            "AIRFLOW__API_AUTH__JWT_SECRET": "s" * 64, "PERENNIAL_ROOT": str(root),
        }.items():  # fmt: skip
            patch.setenv(name, value)
        patch.syspath_prepend(str(REPOSITORY / "dags"))
        sys.modules.pop("of_tasks", None)
        from airflow.dag_processing.dagbag import DagBag

        yield DagBag(REPOSITORY / "dags")
        sys.modules.pop("of_tasks", None)
