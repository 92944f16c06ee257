"""Which batch a tick takes without being told one: pytest tests/test_due.py"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
import yaml

from pipelines import loop, periods, status
from pipelines.adapters.registry import Registry
from pipelines.errors import ParamsError, UnknownId
from pipelines.periods import shift
from pipelines.project import Project, open_project
from pipelines.stages import ingest
from tests.conftest import shop
from tests.test_sources import SHOP

TODAY = "2024-03-06"


@pytest.fixture
def days(project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Orders of the day before yesterday, of yesterday, of today and of tomorrow; by the names of days."""
    monkeypatch.setattr(periods, "utc", lambda: dt.datetime(2024, 3, 6, 15, 30))
    names = [shift(TODAY, "day", by) for by in (-2, -1, 0, 1)]
    rows = shop(days=4)
    rows["ordered_at"] += dt.datetime.fromisoformat(names[0]) - rows["ordered_at"].min().normalize()
    (project_folder / "inbox").mkdir()
    rows.to_csv(project_folder / "inbox" / "orders.csv", index=False)
    (project_folder / "contracts" / "orders.yaml").write_text(
        SHOP.replace("task: shop", "task: orders")
    )
    return names


def project(last: str) -> Project:
    """Of a window up to `last`."""
    path = Path("params.yaml")
    content = yaml.safe_load(path.read_text())
    content["tasks"]["orders"] = content["tasks"]["flights"] | {
        "source": {"kind": "files", "path": "inbox/*.csv"},
        "period": "day",
        "window": {"first": last, "last": last},
    }
    path.write_text(yaml.safe_dump(content))
    return open_project("orders")


def test_a_day_that_is_over_is_due(days: list[str]):
    assert loop.waits_for(project(days[0])) == ""


def test_a_day_that_goes_on_is_landed_by_name_only(days: list[str]):
    """Half of it would be landed for good, and the rest be in no batch."""
    waiting = project(days[1])
    said = loop.waits_for(waiting)
    assert said.startswith(f"{TODAY} goes on until {days[3]}T00:00")
    assert f"perennial tick orders --batch {TODAY}" in said
    assert loop.through(waiting, None, lambda _: pytest.fail("ticked")) == []
    with pytest.raises(ParamsError, match=f"{TODAY} goes on"):
        loop.through(waiting, days[3], lambda _: pytest.fail("ticked"))
    assert status._next(waiting, Registry(waiting.at)).startswith(
        f"nothing is due: {TODAY} goes on"
    )


def test_days_to_come_are_made_up_and_due(days: list[str]):
    assert loop.waits_for(project(days[2])) == ""


def test_what_the_source_lacks_is_waited_for(days: list[str]):
    assert (
        loop.waits_for(project(days[3])) == f"the source has no batch {shift(TODAY, 'day', 2)} yet"
    )


def test_a_day_without_a_row_is_told_as_a_gap(days: list[str]):
    opened = project(days[0])
    lacking = shift(days[0], "day", -3)
    with pytest.raises(UnknownId, match="every day from its first to its last, so each needs rows"):
        ingest.run("orders", opened.task, opened.contract, opened.at, [lacking])
