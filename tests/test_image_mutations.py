"""Good weeks of pictures, broken in every way we could think of: pytest tests/test_image_mutations.py

Each row is stopped by the rule and the column it names, and by no other. Tables without pictures:
tests/test_validate_mutations.py.
"""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines import contract as contracts
from pipelines import images, looks
from pipelines.adapters import expectations
from pipelines.contract import Contract
from pipelines.errors import Quarantined
from pipelines.params import Source, Task, load
from pipelines.paths import Paths
from pipelines.records import Finding, Validation
from pipelines.sources.digits import Digits
from pipelines.stages import ingest, validate
from tests.conftest import REPOSITORY

CONTRACT = contracts.load(REPOSITORY / "contracts" / "digits.yaml")
PERIOD = "2024-W04"
EARLIER = ("2024-W01", "2024-W02", "2024-W03")

Mutation = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """No collection looks through the million objects of Great Expectations: a third quicker."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def week() -> pd.DataFrame:
    return Digits("week").read(PERIOD)


@pytest.fixture(scope="module")
def earlier() -> dict[str, dict[str, str]]:
    """Pictures of the weeks before, by what they are named there."""
    known = [looks.seen(Digits("week").read(period), CONTRACT)["image"] for period in EARLIER]
    return {"image": {digest: name for week in known for digest, name in week.items()}}


@pytest.fixture(scope="module")
def hold(earlier):
    """Hold a table against the contract, as the stage does."""

    def check(table: pd.DataFrame, contract: Contract = CONTRACT) -> tuple[Finding, ...]:
        return expectations.check(table, contract, PERIOD, "week", [130, 126, 130], None, earlier)

    return check


def with_rules(column: str, **rules: object) -> Contract:
    """The contract with other rules on one column."""
    content = json.loads(CONTRACT.model_dump_json(exclude_unset=True))
    content["columns"][column] |= rules
    return Contract.model_validate_json(json.dumps(content))


# What can be done to pictures. Each gives a new table and leaves the good week as it was.


def each(change: Callable[[np.ndarray], np.ndarray | bytes], rows: int | None = None) -> Mutation:
    """The first pictures, or all, replaced by what `change` makes of their pixels (H, W)."""

    def changed(table: pd.DataFrame) -> pd.DataFrame:
        table = table.copy()
        for row in table.index[:rows]:
            made = change(images.decode(table.at[row, "image"], (8, 8), "L")[..., 0])
            table.at[row, "image"] = made if isinstance(made, bytes) else images.png(made)
        return table

    return changed


def files(change: Callable[[bytes], object], rows: int) -> Mutation:
    """The first files replaced by what `change` makes of their bytes."""

    def changed(table: pd.DataFrame) -> pd.DataFrame:
        made = [change(data) for data in table["image"][:rows]]
        return table.assign(image=[*made, *table["image"][rows:]])

    return changed


def labels(change: Callable[[pd.Series], Any]) -> Mutation:
    return lambda table: table.assign(digit=change(table["digit"]))


def from_week(period: str, rows: int) -> Mutation:
    """Pictures of an earlier week, as this week's."""

    def changed(table: pd.DataFrame) -> pd.DataFrame:
        other = Digits("week").read(period)["image"]
        return table.assign(image=[*other[:rows], *table["image"][rows:]])

    return changed


def repeated(table: pd.DataFrame) -> pd.DataFrame:
    """The first five pictures once more, in the rows after them."""
    return table.assign(image=[*table["image"][:5], *table["image"][:5], *table["image"][10:]])


def saved(form: str, **options: object) -> Callable[[np.ndarray], bytes]:
    def change(pixels: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, form, **options)
        return out.getvalue()

    return change


@dataclass(frozen=True)
class Row:
    """`rule` and `column` of the finding that must stop the batch, and what it must say."""

    name: str
    rule: str
    column: str | None
    change: Mutation
    said: tuple[str, ...] = ()
    rules: dict[str, Any] = field(default_factory=dict)
    """Column -> other rules than the contract's."""


def first(table: pd.DataFrame, row: int = 0) -> str:
    return str(table["id"][row])


BALANCED = {"digit": {"balance": [0.05, 0.2]}}

STOPPED = [
    # unreadable
    Row("cut short", "readable", "image", files(lambda f: f[:60], 1), ("1 of 130", "digit-")),
    Row("empty file", "readable", "image", files(lambda f: b"", 3), ("3 of 130", "an empty file")),
    Row("no picture", "readable", "image", files(lambda f: b"<html>404</html>", 2),
        ("no picture of a known format",)),
    Row("spoiled bytes", "readable", "image", files(lambda f: f[:50] + b"\xff" * 20 + f[70:], 1)),
    Row("all unreadable", "readable", "image", files(lambda f: b"x", 130),
        ("130 of 130", "and 110 more")),
    Row("a picture missing", "nulls", "image", files(lambda f: None, 1)),
    Row("more unreadable than a few", "readable", "image", files(lambda f: b"", 3),
        rules={"image": {"unreadable": 0.02}}),
    # size and mode
    Row("another size", "size", "image", each(lambda p: p.repeat(2, axis=0), 1),
        ("16 x 8 pixels", "allowed: 8 x 8 pixels")),
    Row("all of another size", "size", "image", each(lambda p: np.pad(p, 10)), ("28 x 28 pixels",)),
    Row("a bomb", "size", "image",
        files(lambda f: saved("PNG")(np.zeros((9000, 9000), np.uint8)), 1), ("9000 x 9000",)),
    Row("in colour", "mode", "image", each(lambda p: np.stack([p] * 3, axis=2), 1),
        ("(RGB)", "allowed: mode L")),
    Row("with transparency", "mode", "image", each(lambda p: np.stack([p] * 4, axis=2), 1),
        ("RGBA with transparency",)),
    Row("16 bits", "mode", "image",
        each(lambda p: saved("PNG")(p.astype(np.uint16) * 257), 1), ("(I;16)",)),
    # one colour
    Row("one all black", "plain", "image", each(lambda p: p * 0, 1), ("1 of 130", "digit-")),
    Row("one all white", "plain", "image", each(lambda p: p * 0 + 255, 1)),
    # duplicates
    Row("pictures of an earlier week", "duplicates", "image", from_week("2024-W02", 4),
        ("4 of 130", "repeats digit-")),
    Row("the whole week before", "duplicates", "image", from_week("2024-W03", 130), ("130 of 130",)),
    Row("twice in a week", "duplicates", "image", repeated, ("5 of 130", "repeats digit-")),
    Row("an earlier week in other files", "duplicates", "image",
        lambda t: each(lambda p: saved("BMP")(p))(from_week("2024-W01", 130)(t))),
    # classes
    Row("a folder with a wrong name", "values", "digit",
        labels(lambda d: d.where(d != "7", "seven")), ("'seven'",)),
    Row("one picture in a wrong folder", "values", "digit",
        labels(lambda d: d.where(d.index > 0, "new folder")), ("'new folder'", "1 of 130")),
    Row("a class missing", "distinct", "digit", lambda t: t[t["digit"] != "3"].reset_index(drop=True),
        ("9 different values",)),
    Row("nearly all of one class", "balance", "digit",
        labels(lambda d: d.where(d.index < 60, "8")), ("'8' has 58",), BALANCED),
    Row("nearly none of one class", "balance", "digit",
        labels(lambda d: d.where((d != "4") | ~d.duplicated(), "9")), ("'4' has 0.",), BALANCED),
    Row("a picture without a label", "nulls", "digit",
        labels(lambda d: d.where(d.index > 0, None))),
    # the table
    Row("a fifth of the pictures missing", "history", None, lambda t: t.head(105)),
    Row("few pictures", "rows", None, lambda t: t.head(40)),
    Row("pictures as paths", "type", "image", lambda t: t.assign(image="a.png")),
    Row("pictures as numbers", "type", "image", lambda t: t.assign(image=1)),
    Row("column of pictures missing", "columns", "image", lambda t: t.drop(columns="image")),
    Row("a picture's name twice", "key", "id",
        lambda t: t.assign(id=t["id"].where(t.index != 1, t["id"][0]))),
]  # fmt: skip
ALSO = {"few pictures": {("history", None), ("distinct", "time")}}
"""What else such a batch must break."""


def test_the_good_week_passes_without_a_warning(hold, week):
    findings = hold(week)
    assert [f.message for f in findings if not f.passed] == []
    assert {f.rule for f in findings if f.column == "image"} == {
        "type", "nulls", "readable", "size", "mode", "plain", "duplicates",
    }  # fmt: skip


def test_every_honest_batch_passes_without_a_warning():
    history: list[int] = []
    known: dict[str, str] = {}
    for period in Digits("week").periods():
        table = Digits("week").read(period)
        findings = expectations.check(
            table, CONTRACT, period, "week", history, None, {"image": known}
        )
        assert [f.message for f in findings if not f.passed] == []
        history.append(len(table))
        known |= looks.seen(table, CONTRACT)["image"]
    assert len(known) == sum(history) == 1797


@pytest.mark.parametrize("row", STOPPED, ids=lambda row: row.name)
def test_stopped_by_the_rule_that_is_for_it_and_no_other(row, hold, week):
    contract = CONTRACT
    for column, rules in row.rules.items():
        contract = with_rules(column, **rules)
    stopping = [f for f in hold(row.change(week), contract) if f.stops]
    assert {(f.rule, f.column) for f in stopping} - ALSO.get(row.name, set()) == {
        (row.rule, row.column)
    }, stopping
    told = next(f for f in stopping if f.rule == row.rule)
    assert not told.crashed
    for said in (row.column or "the batch", row.rule, told.observed, told.allowed, *row.said):
        assert said in told.message


def test_the_table_has_no_row_twice():
    assert len({row.name for row in STOPPED}) == len(STOPPED) >= 25


def test_each_broken_file_is_named_with_what_is_wrong_with_it(hold, week):
    told = next(f for f in hold(files(lambda f: b"", 3)(week)) if f.rule == "readable")
    for row in range(3):
        assert f"{first(week, row)} (an empty file)" in told.message


def test_a_duplicate_is_named_with_what_it_repeats(hold, week):
    other = Digits("week").read("2024-W02")
    told = next(f for f in hold(from_week("2024-W02", 2)(week)) if f.rule == "duplicates")
    for row in range(2):
        assert f"{first(week, row)} (repeats {other['id'][row]})" in told.message


@pytest.mark.parametrize(
    ("change", "rules", "warned"),
    [
        (files(lambda f: b"", 2), {"unreadable": 0.02}, "unreadable"),
        (each(lambda p: p.repeat(2, axis=1), 2), {"unreadable": 0.02}, "unreadable"),
        (each(lambda p: np.stack([p] * 3, axis=2), 2), {"unreadable": 0.02}, "unreadable"),
        (each(lambda p: p * 0, 1), {"plain": 0.02}, "plain"),
        (from_week("2024-W02", 2), {"duplicates": 0.02}, "duplicates"),
    ],
    ids=["unreadable", "size", "mode", "plain", "duplicates"],
)
def test_a_few_that_the_contract_lets_in_are_named_in_a_warning(hold, week, change, rules, warned):
    findings = hold(change(week), with_rules("image", **rules))
    assert [f.message for f in findings if f.stops] == []
    told = [f for f in findings if not f.passed]
    assert [(f.rule, f.column, f.severity) for f in told] == [(warned, "image", "warning")]
    assert first(week) in told[0].message


def test_a_few_are_so_many_of_all_faults_together(hold, week):
    """Two of each: each fault alone is within the share, and three times as many are not let in."""
    wide = each(lambda p: p.repeat(2, axis=1), 2)(week)["image"][:2]
    colour = each(lambda p: np.stack([p] * 3, axis=2), 2)(week)["image"][:2]
    broken = week.assign(image=[b"", b"", *wide, *colour, *week["image"][6:]])
    findings = hold(broken, with_rules("image", unreadable=0.02))
    assert [f.rule for f in findings if f.stops] == ["readable", "size", "mode"]
    told = next(f for f in findings if f.stops)
    assert "2 of 130" in told.observed
    assert "2 % of the pictures excepted, whatever is wrong with them: it is 4.6" in told.allowed
    within = hold(broken, with_rules("image", unreadable=0.05))
    assert [f.message for f in within if f.stops] == []
    assert [f.rule for f in within if not f.passed] == ["unreadable"] * 3


def test_personal_names_stay_out_of_what_is_said(hold, week):
    findings = hold(files(lambda f: b"", 3)(week), with_rules("id", personal=True))
    told = next(f for f in findings if f.rule == "readable")
    assert told.stops
    assert "digit-" not in told.message


def test_a_batch_may_break_several_rules_each_told_once(hold, week):
    broken = files(lambda f: b"", 1)(each(lambda p: p.repeat(2, axis=0), 3)(week))
    stopping = [f for f in hold(broken) if f.stops]
    assert [(f.rule, f.observed.split()[0]) for f in stopping] == [("readable", "1"), ("size", "2")]


@pytest.mark.parametrize(
    ("column", "rules", "said"),
    [
        ("digit", {"plain": 0.1}, "plain does not apply to a column of type category"),
        ("time", {"unreadable": 0.1}, "unreadable does not apply to a column of type timestamp"),
        ("id", {"balance": [0.1, 0.2]}, "balance is for the label, digit, and id has one"),
        ("image", {"balance": [0.1, 0.2]}, "balance does not apply to a column of type image"),
        ("digit", {"balance": [0.3, 0.2]}, "balance 0.3 is above 0.2"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(column, rules, said):
    with pytest.raises(ValueError, match=said):
        with_rules(column, **rules)


# The stage: real folders, real files -----------------------------------------------------------


@pytest.fixture
def project(project_folder) -> tuple[Task, Paths]:
    flights = load(project_folder / "params.yaml").tasks["flights"]
    task = flights.model_copy(update={"source": Source(kind="digits"), "period": "week"})
    return task, Paths(project_folder, "digits")


def landed(project: tuple[Task, Paths], *periods: str) -> list[Validation]:
    task, at = project
    ingest.run("digits", task, CONTRACT, at, periods)
    return validate.run("digits", task, CONTRACT, at, periods)


def test_a_batch_that_repeats_an_accepted_one_is_quarantined_with_the_names_of_both(project):
    task, at = project
    landed(project, "2024-W01", "2024-W02")
    ingest.run("digits", task, CONTRACT, at, ["2024-W03"])
    table = pd.read_parquet(at.batch("2024-W03"))
    other = pd.read_parquet(at.batch("2024-W01"))
    table["image"] = [other["image"][7], *table["image"][1:]]
    table.to_parquet(at.batch("2024-W03"), index=False)
    with pytest.raises(Quarantined) as stopped:
        validate.run("digits", task, CONTRACT, at, ["2024-W03"])
    assert f"{table['id'][0]} (repeats {other['id'][7]} of 2024-W01)" in str(stopped.value)
    assert not at.batch("2024-W03").exists()
    assert list(at.quarantine.glob("2024-W03-*/report.html"))


@pytest.mark.parametrize(("batches", "stopped"), [(2, False), (4, True)])
def test_pictures_are_compared_with_as_many_batches_as_a_window_holds(
    batches, stopped, project, monkeypatch
):
    """However few the usual row count is taken from: what is trained on may not come again."""
    monkeypatch.setattr(validate, "HISTORY", 3)
    task, at = project
    window = task.window.model_copy(update={"batches": batches})
    task = task.model_copy(update={"window": window})
    landed((task, at), *EARLIER, "2024-W04")
    ingest.run("digits", task, CONTRACT, at, ["2024-W05"])
    table, oldest = (pd.read_parquet(at.batch(week)) for week in ("2024-W05", "2024-W01"))
    table["image"] = [oldest["image"][7], *table["image"][1:]]
    table.to_parquet(at.batch("2024-W05"), index=False)
    refused = pytest.raises(Quarantined, match="of 2024-W01") if stopped else nullcontext()
    with refused:
        validate.run("digits", task, CONTRACT, at, ["2024-W05"])


def test_a_batch_is_not_its_own_duplicate_when_the_contract_has_changed(project):
    task, at = project
    landed(project, "2024-W01", "2024-W02")
    other = with_rules("image", unreadable=0.1)
    again = validate.run("digits", task, other, at, ["2024-W01", "2024-W02"])
    assert [r.accepted for r in again] == [True, True]


def test_gxs_own_pages_show_the_rules_on_pictures(project):
    landed(project, "2024-W01")
    pages = list((project[1].data_docs / "site").rglob("*.html"))
    assert any("image: readable" in page.read_text(encoding="utf-8") for page in pages)


def test_a_folder_of_pictures_with_an_unreadable_file_is_quarantined_and_the_file_named(
    project_folder,
):
    pets = contracts.parse(
        """
task: pets
time: taken
key: [file]
label: animal
columns:
  taken: {type: timestamp}
  file: {type: category, feature: false}
  photo: {type: image, size: [8, 8], mode: L}
  animal: {type: category, feature: false, values: [cat, dog], distinct: 2}
"""
    )
    random = np.random.default_rng(0)
    for cls in pets.classes:
        folder = project_folder / "pets" / "2024-W01" / cls
        folder.mkdir(parents=True)
        for n in range(5):
            pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
            (folder / f"{n}.png").write_bytes(images.png(pixels))
    broken = Path(project_folder / "pets" / "2024-W01" / "dog" / "3.png")
    broken.write_bytes(broken.read_bytes()[:70])
    flights = load(project_folder / "params.yaml").tasks["flights"]
    source = Source(kind="images", path="pets")
    task = flights.model_copy(update={"source": source, "period": "week"})
    at = Paths(project_folder, "pets")
    ingest.run("pets", task, pets, at, ["2024-W01"])
    with pytest.raises(Quarantined, match=r"1 of 10 rows .* cannot be read: 2024-W01/dog/3\.png"):
        validate.run("pets", task, pets, at, ["2024-W01"])
    broken.write_bytes(images.png(np.eye(8, dtype=np.uint8) * 200))
    ingest.run("pets", task, pets, at, ["2024-W01"])
    assert validate.run("pets", task, pets, at, ["2024-W01"])[0].accepted
