"""`dvc repro` and its relatives give what their users expect: pytest -m slow tests/slow/test_dvc.py"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from pipelines import artifact, flow

pytestmark = [pytest.mark.slow, pytest.mark.long]


def ran(said: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)@flights'", said)


def change(clone: Path, old: str, new: str) -> None:
    path = clone / "params.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def dvc_hashes(clone: Path, folder: str) -> dict[str, str]:
    """File -> md5, as DVC's own cache lists the folder that dvc.lock names."""
    lock = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]["ingest@flights"]
    (listed,) = [out["md5"] for out in lock["outs"] if out["path"] == folder]
    entries = json.loads((clone / f".dvc/cache/files/md5/{listed[:2]}/{listed[2:]}").read_text())
    return {entry["relpath"]: entry["md5"] for entry in entries}


def test_repro_runs_what_depends_on_the_change_and_nothing_else(clone: Path, shell):
    change(clone, "family: network", "family: logistic")
    assert ran(shell("dvc repro evaluate@flights")) == list(flow.PURE)
    first = json.loads((clone / "data/5_report/flights/metrics.json").read_text())
    assert ran(shell("dvc repro evaluate@flights")) == []

    model = artifact.load(clone / "data" / "4_model" / "flights")
    tracked = dvc_hashes(clone, "data/1_raw/flights")
    for data in model.about.data:
        assert tracked[f"{data.period}.parquet"] == data.md5

    shell("git add -A && git commit -qm 'a training'")
    change(clone, "slice_rows: 300", "slice_rows: 500")
    assert ran(shell("dvc repro evaluate@flights")) == ["evaluate"]
    change(clone, "seed: 7", "seed: 8")
    assert ran(shell("dvc repro evaluate@flights")) == ["prepare", "train", "evaluate"]
    change(clone, 'last: "2013-03"', 'last: "2013-02"')
    assert ran(shell("dvc repro evaluate@flights")) == list(flow.PURE)

    said = json.loads(shell("dvc metrics diff --json 2>/dev/null"))
    (found,) = said.values()
    assert found["test_auc"]["old"] == pytest.approx(first["test_auc"])

    # The other task has made nothing here, which `dvc checkout` alone calls a failure.
    shell(
        "dvc checkout -q --allow-missing && git checkout -q . && dvc checkout -q -f --allow-missing"
    )
    shell("dvc exp run -q -S tasks.flights.train.seed=9 evaluate@flights")
    assert "seed: 9" in (clone / "params.yaml").read_text()
    assert "html" in shell("dvc plots show")
    changed = json.loads((clone / "data/5_report/flights/metrics.json").read_text())
    assert changed.keys() == first.keys()


def test_the_same_commit_gives_the_same_bytes(clone: Path, shell):
    shell("dvc repro -q evaluate@flights")
    before = (clone / "dvc.lock").read_text()
    shell(
        "rm -rf data .mlflow .perennial .dvc/cache .dvc/tmp && dvc repro -q --force evaluate@flights"
    )
    assert (clone / "dvc.lock").read_text() == before
