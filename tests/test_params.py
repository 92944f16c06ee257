"""Settings stop before any work, naming key, value and what is allowed: pytest tests/test_params.py"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines import contract, params
from pipelines.errors import MissingInput, ParamsError

REPOSITORY = Path(__file__).parent.parent


def changed(tmp_path: Path, *path: str, value: object) -> Path:
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    here = content
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_shipped_settings_load():
    flights = params.task(REPOSITORY / "params.yaml", "flights")
    assert flights.period == "month"
    assert flights.source.kind == "flights"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            ("tasks", "flights", "train", "lerning_rate"),
            0.1,
            ["train.lerning_rate", "allowed are", "family"],
        ),
        (("tasks", "flights", "windw"), {}, ["flights.windw", "allowed are", "window"]),
        (
            ("tasks", "flights", "train", "family"),
            "forrest",
            ["train.family", '"forrest"', "'forest'"],
        ),
        (
            ("tasks", "flights", "gate", "confidence"),
            1.5,
            ["gate.confidence", "1.5", "less than 1"],
        ),
        (("tasks", "flights", "train", "seed"), "seven", ["train.seed", '"seven"', "integer"]),
        (("tasks", "flights", "train", "seed"), 2**32, ["train.seed", "less than 4294967296"]),
        (
            ("tasks", "flights", "window", "first"),
            "2013-09",
            ["window", "2013-09 is after last 2013-03"],
        ),
        (("tasks", "flights", "source"), {"kind": "files"}, ["source", "needs path"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(tmp_path, path, value, said):
    with pytest.raises(ParamsError) as stopped:
        params.load(changed(tmp_path, *path, value=value))
    message = str(stopped.value)
    assert "params.yaml" in message
    assert message.endswith("Mend it with: edit params.yaml")
    for part in said:
        assert part in message


def test_settings_cannot_be_changed_after_loading():
    flights = params.task(REPOSITORY / "params.yaml", "flights")
    with pytest.raises(ValueError, match="frozen"):
        flights.train.seed = 8


def test_an_unknown_task_lists_those_there_are():
    with pytest.raises(ParamsError, match="tasks are: flights"):
        params.task(REPOSITORY / "params.yaml", "flihgts")


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(MissingInput, match="PERENNIAL_ROOT"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(label="lat"), "'lat'"),
        (lambda c: c.update(key=["nope"]), "'nope'"),
        (lambda c: c["columns"]["carrier"].update(min=1), "min does not apply"),
        (lambda c: c["columns"]["distance"].update(min=9, max=1), "min 9.0 is above max 1.0"),
        (lambda c: c["columns"]["distance"].update(colour="red"), "colour"),
    ],
)
def test_a_wrong_contract_is_named(tmp_path, change, said):
    content = yaml.safe_load((REPOSITORY / "contracts" / "flights.yaml").read_text())
    change(content)
    file = tmp_path / "flights.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ParamsError) as stopped:
        contract.load(file)
    assert said in str(stopped.value)


def test_the_contract_digest_ignores_layout_and_sees_content():
    text = (REPOSITORY / "contracts" / "flights.yaml").read_text()
    again = yaml.safe_dump(yaml.safe_load(text), sort_keys=False)
    assert contract.parse(text).digest == contract.parse(again).digest
    assert contract.parse(text).digest != contract.parse(text.replace("miles", "leagues")).digest
