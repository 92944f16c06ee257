"""What a window must hold before anything is made of it: `pytest tests/test_prepare.py`"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines import contract, store
from pipelines.errors import ParamsError
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.stages import prepare
from tests.conftest import shop
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
