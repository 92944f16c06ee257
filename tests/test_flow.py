"""The order of the steps is written once and everything else agrees: pytest tests/test_flow.py"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from pipelines import flow
from pipelines.__main__ import cli
from pipelines.paths import Paths

REPOSITORY = Path(__file__).parent.parent
DVC = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]


def files(entries: list) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def test_dvc_has_the_pure_half_in_order():
    assert tuple(DVC) == flow.PURE


def test_each_dvc_stage_runs_the_command_of_its_own_name():
    for name, stage in DVC.items():
        assert stage["do"]["cmd"] == f"perennial {name} ${{key}}"
        assert name in cli.commands


def test_each_dvc_stage_reads_what_the_one_before_wrote():
    for before, after in zip(flow.PURE, flow.PURE[1:], strict=False):
        written = {o for o in files(DVC[before]["do"].get("outs", []))}
        assert written & set(files(DVC[after]["do"]["deps"])), f"{after} does not read {before}"


def test_dvc_depends_on_code_that_exists():
    for stage in DVC.values():
        for path in files(stage["do"]["deps"]):
            if path.startswith("pipelines"):
                assert (REPOSITORY / path).exists(), path


def test_dvc_names_the_folders_that_paths_spells(tmp_path):
    at = Paths(tmp_path, "${key}")
    spelled = {
        str(p.relative_to(tmp_path)) for p in (at.raw, at.valid, at.prepared, at.model, at.report)
    }
    used = set()
    for stage in DVC.values():
        for kind in ("outs", "plots", "metrics"):
            used |= {p for p in files(stage["do"].get(kind, [])) if p.startswith("data/")}
    for path in used:
        assert any(path == s or path.startswith((s + "/", s + ".")) for s in spelled), path


def test_dvc_watches_settings_that_exist():
    known = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["tasks"]["flights"]
    for stage in DVC.values():
        for name in stage["do"]["params"]:
            here = known
            for part in name.split(".")[2:]:
                assert part in here, name
                here = here[part]


def test_every_step_of_a_tick_has_a_command_or_is_inside_one():
    inside = {"policy": "tick", "register": "gate"}
    for step in flow.TICK:
        assert inside.get(step, step) in cli.commands


def test_the_flow_imports_nothing():
    source = (REPOSITORY / "pipelines" / "flow.py").read_text()
    assert not re.search(r"^\s*(import|from)\s", source, re.MULTILINE)


def test_the_readmes_map_names_every_numbered_folder_in_the_order_of_the_flow():
    code = (REPOSITORY / "pipelines").rglob("*.py")
    there = {name for file in code for name in re.findall(r'"(\d_[a-z]+)"', file.read_text())}
    told = re.findall(r"^data/ .*\n.*", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    named = re.findall(r"\d_[a-z]+", told[0])
    assert set(named) == there
    assert [name[0] for name in named] == sorted(name[0] for name in named)
