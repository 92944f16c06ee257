"""A newcomer's own data, by the README's own words: pytest -m slow tests/slow/test_own_data.py"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from pipelines import store
from tests.conftest import shop

pytestmark = [pytest.mark.slow, pytest.mark.long]
REPOSITORY = Path(__file__).parent.parent.parent
MARKS = r"<!-- own data: the test.*?-->(.*)<!-- own data: end -->"


def blocks(language: str) -> list[str]:
    part = re.search(MARKS, (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert part, "README.md has lost its marks around the own-data part"
    return re.findall(rf"```{language}\n(.*?)```", part[1], re.DOTALL)


@pytest.fixture
def shop_folder(clone):
    """A fresh clone with a folder of CSV files, as the README's reader has them."""
    (clone / "inbox").mkdir()
    table = shop(days=77, rows_a_day=600)
    for name, rows in table.groupby(table["ordered_at"].dt.to_period("M")):
        rows.to_csv(clone / "inbox" / f"orders-{name}.csv", index=False)
    return clone


def test_the_readme_takes_a_folder_of_csv_files_to_a_champion_that_answers(shop_folder, shell):
    clone = shop_folder
    propose, use = blocks("sh")
    (settings,) = blocks("yaml")
    shell(propose)
    assert (clone / "contracts" / "orders.yaml").is_file()
    with (clone / "params.yaml").open("a") as params:
        params.write(settings)
    said = shell(use)
    assert "champion = version 1" in said

    metrics = json.loads((clone / "data" / "5_report" / "orders" / "metrics.json").read_text())
    assert metrics["test_auc"] > 0.75, "the made-up shop has a signal that a model must find"
    answers = pd.read_parquet(
        clone / "data" / "6_live" / "orders" / "predictions" / "2024-W09.parquet"
    )
    table = shop(days=77, rows_a_day=600)
    week = table[table["ordered_at"].dt.strftime("%G-W%V") == "2024-W09"]
    assert sorted(answers["order"]) == sorted(week["order"])

    found = json.loads(shell(f"perennial trace --json {answers['id'].iloc[0]} 2>/dev/null"))
    assert found["data"][-1]["period"] == "2024-W08"
    assert "git checkout" in found["rebuild"][0]
    shell(f"rm -rf data/4_model && {found['rebuild'][-1]}")
    rebuilt = store.md5(clone / "data" / "4_model" / "orders" / "manifest.json")
    assert rebuilt == found["model"]["digest"], "trace names commands that make another model"
