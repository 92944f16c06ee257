"""What a window must hold, and what becomes of it: `pytest tests/test_prepare.py`"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipelines import contract, images, params, store
from pipelines.errors import ParamsError
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.sources.digits import Digits
from pipelines.stages import prepare
from pipelines.tasks.base import load_rows
from tests.conftest import REPOSITORY, shop
from tests.test_tuning import CONTRACT, PARAMS


@pytest.mark.parametrize(("part", "first", "last"), [
    ("train", 0.0, 0.5), ("validation", 0.5, 0.7), ("test", 0.7, 1.0),
])  # fmt: skip
def test_rows_of_one_label_only_are_told_before_anything_is_trained_on_them(
    part: str, first: float, last: float, tmp_path: Path
) -> None:
    agreed, at = contract.parse(CONTRACT), Paths(tmp_path, "orders")
    task = Task.model_validate_json(store.json.dumps(yaml.safe_load(PARAMS)["tasks"]["orders"]))
    table = shop(days=30)
    inside = (table.index >= len(table) * first) & (table.index < len(table) * last)
    table.loc[inside, agreed.label] = 0
    store.write_table(at.batch("2024-01"), table)
    with pytest.raises(
        ParamsError, match=rf"orders\.window: all \d+ {part} rows have the same lab"
    ):
        prepare.run("orders", task, agreed, at, ["2024-01"], [])
    assert not at.prepared.exists()


# Pictures that come again ---------------------------------------------------------------------

WEEKS = ("2024-W01", "2024-W02", "2024-W03")
DIGITS = contract.load(REPOSITORY / "contracts" / "digits.yaml")


def again(files: pd.Series) -> list[bytes]:
    """The same pixels in other files."""
    found = []
    for data in files:
        out = io.BytesIO()
        Image.open(io.BytesIO(data)).save(out, "BMP")
        found.append(out.getvalue())
    return found


def digits(root: Path, change: Callable[[list[pd.DataFrame]], None]) -> Paths:
    """Three weeks landed, as `change` leaves them."""
    at, weeks = Paths(root, "digits"), [Digits("week").read(week) for week in WEEKS]
    change(weeks)
    for week, table in zip(WEEKS, weeks, strict=True):
        store.write_table(at.batch(week), table)
    return at


def test_a_picture_that_was_trained_on_judges_nothing_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = params.task(REPOSITORY / "params.yaml", "digits")
    whole = prepare.run("digits", task, DIGITS, digits(tmp_path / "whole", lambda weeks: None),
                        WEEKS, [])  # fmt: skip
    assert "left out" not in caplog.text
    held = whole.rows["validation"] + whole.rows["test"]

    def repeat(weeks: list[pd.DataFrame]) -> None:
        first, last = weeks[0]["image"], weeks[2]["image"].tolist()
        last[-held : -held + 2] = again(first[:2])  # in validation, of train
        last[-3:] = again(first[5:8])  # in test, of train
        last[-4:-3] = again(weeks[2]["image"][-held + 5 : -held + 6])  # in test, of validation
        last[-5:-4] = again(weeks[2]["image"][-6:-5])  # in test twice
        weeks[2]["image"] = last

    at = digits(tmp_path / "again", repeat)
    with caplog.at_level(logging.INFO):
        made = prepare.run("digits", task, DIGITS, at, WEEKS, [])
    assert "2 validation and 4 test rows are left out that an earlier part has" in caplog.text
    assert made.rows == {
        "train": whole.rows["train"],
        "validation": whole.rows["validation"] - 2,
        "test": whole.rows["test"] - 4,
    }
    parts = {part: load_rows(at, part, task).pixels for part in made.rows}
    digests = {part: {images.digest(p) for p in pixels} for part, pixels in parts.items()}
    assert not digests["train"] & (digests["validation"] | digests["test"])
    assert not digests["validation"] & digests["test"]
    test = store.frame(at.prepared / "test.parquet")
    assert np.array_equal(images.stack(test["image"].tolist(), (8, 8), "L"), parts["test"])


def test_a_part_that_was_all_trained_on_is_told_with_what_is_left_out(tmp_path: Path) -> None:
    def repeat(weeks: list[pd.DataFrame]) -> None:
        weeks[2]["image"] = again(weeks[0]["image"])[: len(weeks[2])]

    task = params.task(REPOSITORY / "params.yaml", "digits")
    at = digits(tmp_path, repeat)
    with pytest.raises(
        ParamsError, match=r"all 0 validation rows \(without \d+ that an earlier pa"
    ):
        prepare.run("digits", task, DIGITS, at, WEEKS, [])


def test_rows_of_a_table_may_be_alike_in_two_parts(tmp_path: Path) -> None:
    agreed, at = contract.parse(CONTRACT), Paths(tmp_path, "orders")
    task = Task.model_validate_json(store.json.dumps(yaml.safe_load(PARAMS)["tasks"]["orders"]))
    table = shop(days=30).assign(country="DE", price=1.0, weight=1.0)
    store.write_table(at.batch("2024-01"), table)
    made = prepare.run("orders", task, agreed, at, ["2024-01"], [])
    assert sum(made.rows.values()) == len(table)
