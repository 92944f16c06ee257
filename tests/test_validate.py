"""The door: verdict, quarantine, kills, pages: pytest tests/test_validate.py"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines import contract as contracts
from pipelines import leakage, pages, store
from pipelines.adapters import expectations, suite
from pipelines.contract import Column, Contract
from pipelines.errors import MissingInput, ParamsError, Quarantined
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.records import Finding, Validation
from pipelines.stages import validate
from pipelines.stored import fits, texts_as_levels
from tests.conftest import shop

SETTINGS = """{
  "source": {"kind": "files", "path": "inbox"}, "period": "month",
  "window": {"first": "2024-01", "last": "2024-03"}, "calendar": [], "min_category": 50,
  "train": {"seed": 7}, "evaluate": {}
}"""
TASK = Task.model_validate_json(SETTINGS)
ORDERS = """
task: orders
time: ordered_at
key: [order]
label: returned
rows: {min: 100, against_history: [0.5, 2.0]}
columns:
  ordered_at: {type: timestamp}
  order: {type: integer, feature: false}
  country: {type: category, values: [DE, FR, NL], new_values: 0.1}
  price: {type: number, min: 0, unit: €}
  weight: {type: number, nulls: 0.1, mean: [1, 3], unit: kg, severity: warning}
  returned: {type: integer, distinct: 2}
"""
CONTRACT = contracts.parse(ORDERS)
MONTHS = ("2024-01", "2024-02", "2024-03")


@pytest.fixture(scope="module")
def months() -> dict[str, pd.DataFrame]:
    table = shop(days=91, rows_a_day=20)
    names = table["ordered_at"].dt.strftime("%Y-%m")
    return {period: table[names == period].reset_index(drop=True) for period in MONTHS}


@pytest.fixture
def at(tmp_path, months) -> Paths:
    """A project whose three months have landed."""
    at = Paths(tmp_path, "orders")
    for period, rows in months.items():
        store.write_table(at.batch(period), rows)
    return at


def run(at: Paths, *periods: str, contract: Contract = CONTRACT) -> list[Validation]:
    return validate.run("orders", TASK, contract, at, periods or MONTHS)


def changed(contract: Contract, column: str, **rules: object) -> Contract:
    columns = contract.columns | {column: contract.columns[column].model_copy(update=rules)}
    return contract.model_copy(update={"columns": columns})


def hold(
    table: pd.DataFrame, contract: Contract = CONTRACT, history: tuple[int, ...] = ()
) -> tuple[Finding, ...]:
    return expectations.check(table, contract, "2024-01", "month", history)


def failed(findings: tuple[Finding, ...]) -> dict[tuple[str, str | None], str]:
    return {(f.rule, f.column): f.severity for f in findings if not f.passed}


def tree(folder: Path) -> dict[str, str]:
    """Every file that a run leaves, but for GX's own docs, which tell no one's fate."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and "2_docs" not in str(p))
    return {str(p.relative_to(folder)): store.md5(p) for p in files}


# The verdict is ours, and not the overall success of Great Expectations.


def overall(table: pd.DataFrame, rules: list[suite.Rule], contract: Contract = CONTRACT) -> bool:
    return bool(expectations.validate(texts_as_levels(table), rules, contract).success)


def all_rules(table: pd.DataFrame, like: pd.DataFrame) -> list[suite.Rule]:
    """The rules that a full table is asked, to be asked of another."""
    return suite.rules(texts_as_levels(like), CONTRACT, "2024-01", "month", ())


def test_a_broken_warning_lets_in_where_gx_says_failure(months):
    table = months["2024-01"].assign(weight=lambda t: t["weight"] * 1000)
    assert overall(table, all_rules(table, table)) is False
    findings = hold(table)
    assert failed(findings) == {("mean", "weight"): "warning"}
    assert not any(f.stops for f in findings)


def test_an_empty_batch_is_stopped_where_most_of_gx_says_success(months):
    full = months["2024-01"]
    empty = full.head(0)
    asked = [r for r in all_rules(empty, full) if r.name not in ("rows", "mean", "classes")]
    assert len(asked) > 10
    assert overall(empty, asked) is True
    assert failed(hold(empty)) == {("rows", None): "critical"}


def test_a_check_that_raises_stops_whatever_its_severity(months):
    lists = changed(CONTRACT, "order", severity="warning")
    contract = lists.model_copy(update={"key": ("order", "country")})
    table = months["2024-01"].assign(order=lambda t: [[n] for n in t["order"]])
    crashed = [f for f in hold(table, contract) if f.crashed]
    assert [f.rule for f in crashed] == ["key"]
    assert all(f.stops for f in crashed)
    assert Finding(rule="mean", column="a", severity="warning", passed=False, crashed=True).stops


def test_a_rule_that_was_not_answered_counts_as_crashed(months, monkeypatch):
    monkeypatch.setattr(expectations, "answers_by_rule", lambda result: {})
    findings = [f for f in hold(months["2024-01"]) if f.rule != "leak"]
    assert findings
    assert all(f.crashed and f.stops for f in findings)


# Rules that the flights do not need.


def test_infinity_does_not_slip_through_an_open_range_or_an_excepted_share(months):
    table = months["2024-01"].copy()
    table.loc[3, "price"] = np.inf
    assert failed(hold(table)) == {("finite", "price"): "critical"}
    spare = changed(CONTRACT, "price", max=10_000.0, outside=0.01)
    assert failed(hold(table, spare)) == {("finite", "price"): "critical"}


@pytest.mark.parametrize("gaps", [10, 20, 30, 70])
def test_a_share_at_its_limit_holds_and_one_row_more_does_not(months, gaps):
    table = months["2024-01"].head(100).copy()
    table["weight"] = 2.0
    contract = changed(CONTRACT, "weight", nulls=gaps / 100)
    table.loc[: gaps - 1, "weight"] = np.nan
    assert failed(hold(table, contract)) == {}
    table.loc[gaps, "weight"] = np.nan
    assert failed(hold(table, contract)) == {("nulls", "weight"): "warning"}


def test_integers_with_gaps_may_be_floats_as_long_as_they_are_whole(months):
    table = months["2024-01"].assign(order=lambda t: t["order"].astype(float))
    assert ("type", "order") in failed(hold(table))
    gaps = changed(CONTRACT, "order", nulls=0.1)
    table.loc[0, "order"] = np.nan
    assert failed(hold(table, gaps)) == {}
    table.loc[1, "order"] = 0.5
    assert failed(hold(table, gaps)) == {("type", "order"): "critical"}


@pytest.mark.parametrize("stored", ["int8", "int32", "uint16", "Int64"])
def test_integers_of_any_width_are_integers(months, stored):
    table = months["2024-01"].head(120).assign(order=lambda t: np.arange(len(t)))
    assert failed(hold(table.astype({"order": stored}))) == {}


@pytest.mark.parametrize("stored", ["object", "string", "category"])
def test_text_is_text_however_it_is_stored(months, stored):
    assert failed(hold(months["2024-01"].astype({"country": stored}))) == {}


HELD = {
    "integers": pd.Series(range(120)),
    "floats": pd.Series(np.linspace(0, 1, 120)),
    "text": pd.Series(["a", "b"] * 60),
    "text with gaps": pd.Series(["a", None] * 60),
    "booleans": pd.Series([True, False] * 60),
    "booleans with gaps": pd.Series([True, None] * 60, dtype=object),
    "coded categories": pd.Series([1, 2] * 60).astype("category"),
    "times": pd.Series(pd.date_range("2024-01-01", periods=120, freq="h")),
    "times with a zone": pd.Series(pd.date_range("2024-01-01", periods=120, freq="h", tz="UTC")),
    "spans": pd.Series(pd.to_timedelta(range(120), unit="s")),
    "bytes": pd.Series([b"a"] * 120),
    "lists": pd.Series([[1]] * 120),
    "text and numbers": pd.Series(["a", 1] * 60),
}


@pytest.mark.parametrize("held", HELD)
def test_a_column_that_does_not_fit_its_type_is_always_told(months, held):
    """A rule that cannot be asked is left out, so the type must fail whenever one is."""
    table = months["2024-01"].head(120).assign(weight=HELD[held])
    for kind in ("timestamp", "integer", "number", "category", "boolean"):
        column = Column(type=kind, nulls=0.9)
        contract = CONTRACT.model_copy(update={"columns": CONTRACT.columns | {"weight": column}})
        told = ("type", "weight") in failed(hold(table, contract))
        assert told is not fits(table["weight"], column), kind


def test_a_batch_of_one_class_is_a_warning_unless_the_contract_wants_two(months):
    table = months["2024-01"].assign(returned=0)
    assert failed(hold(table)) == {("classes", "returned"): "critical"}
    lenient = changed(CONTRACT, "returned", distinct=1)
    assert failed(hold(table, lenient)) == {("classes", "returned"): "warning"}


def test_history_is_asked_only_when_there_is_enough_of_it(months):
    rows = len(months["2024-01"])
    assert failed(hold(months["2024-01"], history=(10 * rows,) * 2)) == {}
    assert failed(hold(months["2024-01"], history=(10 * rows,) * 3)) == {
        ("history", None): "critical"
    }


def test_personal_values_are_in_no_message(months, tmp_path):
    contract = changed(CONTRACT, "country", personal=True)
    table = months["2024-01"].assign(country="Erika Mustermann")
    findings = expectations.check(table, contract, "2024-01", "month", (), tmp_path)
    assert ("values", "country") in failed(findings)
    assert "Erika" not in str(findings)
    kept = [p for p in tmp_path.rglob("*") if p.suffix in (".html", ".json")]
    assert kept
    assert not any("Erika" in p.read_text() for p in kept)


def test_the_same_batch_gives_the_same_findings_to_the_letter(months):
    assert hold(months["2024-01"]) == hold(months["2024-01"])


# Leaks, beyond the table of mutations.


def test_a_leak_that_a_person_has_allowed_is_none(months):
    table = months["2024-01"].assign(weight=lambda t: t["returned"] + 1.0)
    assert failed(hold(table)) == {("leak", "weight"): "critical"}
    assert failed(hold(table, changed(CONTRACT, "weight", may_tell_label=True))) == {}
    assert failed(hold(table, changed(CONTRACT, "weight", feature=False))) == {}


@pytest.mark.parametrize("seed", range(5))
def test_what_does_not_know_the_label_never_tells_it(seed):
    """Unique names, rare values, constants and gaps at random, whatever the rate of the label."""
    random = np.random.default_rng(seed)
    n, rate = int(random.integers(1, 3000)), random.choice([0.01, 0.3, 0.97])
    honest = pd.DataFrame(
        {
            "ordered_at": pd.Timestamp("2024-01-01"),
            "order": np.arange(n),
            "country": pd.Series(random.integers(0, max(n // 3, 1), n)).map("c{}".format),
            "price": np.where(random.random(n) < 0.3, np.nan, random.normal(size=n)),
            "weight": 1.0,
            "returned": (random.random(n) < rate).astype("int64"),
        }
    )
    assert [f.message for f in leakage.findings(honest, CONTRACT) if not f.passed] == []


# The stage.


def test_good_batches_are_let_in_and_say_what_they_are(at, months, caplog):
    with caplog.at_level(logging.INFO):
        results = run(at)
    assert [(r.period, r.rows, r.accepted) for r in results] == [
        (period, len(months[period]), True) for period in MONTHS
    ]
    assert results[0].content == store.md5(at.batch("2024-01"))
    assert results[0].contract == CONTRACT.digest
    assert [validate.accepted(at, p, CONTRACT) for p in MONTHS] == results
    assert "2024-01: accepted, " in caplog.text


def test_a_warning_is_kept_logged_and_let_in(at, months, caplog):
    store.write_table(at.batch("2024-01"), months["2024-01"].assign(weight=500.0))
    (result,) = run(at, "2024-01")
    assert [f.rule for f in result.failures] == ["mean"]
    assert "weight breaks mean: mean 500; allowed: a mean of 1 to 3 kg" in caplog.text
    assert "Accepted with 1 warning." in at.validation_page("2024-01").read_text()


def test_validated_once_for_a_content_and_a_contract(at, monkeypatch):
    first = run(at)
    before = {p: p.stat().st_mtime_ns for p in at.valid.iterdir()}

    def never(*_: object) -> None:
        raise AssertionError("looked at again")

    monkeypatch.setattr(expectations, "check", never)
    assert run(at) == first
    assert {p: p.stat().st_mtime_ns for p in at.valid.iterdir()} == before
    with pytest.raises(AssertionError, match="looked at again"):
        run(at, contract=changed(CONTRACT, "price", max=1000.0))


def test_a_second_run_imports_no_great_expectations(at):
    run(at)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipelines import contract, params, paths\n"
        "from pipelines.stages import validate\n"
        f"task = params.Task.model_validate_json({SETTINGS!r})\n"
        f"at = paths.Paths(Path({str(at.root)!r}), 'orders')\n"
        f"validate.run('orders', task, contract.parse({ORDERS!r}), at, {MONTHS!r})\n"
        "sys.exit('great_expectations' in sys.modules or 'pandas' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_another_contract_is_another_result(at):
    (old,) = run(at, "2024-01")
    wider = changed(CONTRACT, "price", max=1_000_000.0)
    with pytest.raises(MissingInput, match=r"is of an earlier contract.*perennial validate orders"):
        validate.accepted(at, "2024-01", wider)
    (new,) = run(at, "2024-01", contract=wider)
    assert new.contract == wider.digest != old.contract
    assert validate.accepted(at, "2024-01", wider) == new


def test_a_stricter_contract_is_refused_and_no_accepted_batch_is_lost(at):
    run(at)
    before = {p: store.md5(p) for p in at.data.rglob("*.*") if at.data_docs not in p.parents}
    stricter = changed(CONTRACT, "price", max=0.5)
    with pytest.raises(ParamsError, match=r"3 batches .*2024-01 to 2024-03.*price range") as said:
        run(at, contract=stricter)
    assert "Nothing was moved" in str(said.value)
    after = {p: store.md5(p) for p in at.data.rglob("*.*") if at.data_docs not in p.parents}
    assert after == before
    with pytest.raises(MissingInput, match="earlier contract"):
        validate.accepted(at, "2024-01", stricter)
    assert all(result.accepted for result in run(at)), (
        "the contract of before accepts them as before"
    )


def broken(months: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return months["2024-02"].assign(price=-1.0).drop(columns="country")


def test_a_bad_batch_goes_to_quarantine_with_its_reasons(at, months):
    store.write_table(at.batch("2024-02"), broken(months))
    content = store.md5(at.batch("2024-02"))
    with pytest.raises(Quarantined) as refused:
        run(at)
    folder = at.quarantine / f"2024-02-{content[:8]}"
    assert {p.name for p in folder.iterdir()} == {"batch.parquet", "result.json", "report.html"}
    assert store.md5(folder / "batch.parquet") == content
    assert not at.batch("2024-02").exists()
    assert not at.validation("2024-02").exists()
    assert validate.accepted(at, "2024-01", CONTRACT).accepted, "those before it stay"
    assert at.batch("2024-03").exists(), "those after it were not looked at"

    said = str(refused.value)
    assert "batch 2024-02 is in quarantine, 2 broken" in said
    assert "country breaks columns: is missing" in said
    rows = f"{len(months['2024-02'])} of {len(months['2024-02'])} rows (100 %)"
    assert f"price breaks range: {rows} lie outside, e.g. -1; allowed: at least 0 €" in said
    assert str(folder / "report.html") in said
    assert said.endswith("perennial ingest orders --batch 2024-02")
    result = Validation.model_validate_json((folder / "result.json").read_text())
    assert not result.accepted
    assert {f.column for f in result.failures} == {"country", "price"}
    assert "Stopped: 2 broken rules" in (folder / "report.html").read_text()


def test_a_repaired_batch_lands_where_the_bad_one_was(at, months):
    store.write_table(at.batch("2024-02"), broken(months))
    for _ in range(2):  # asked again before the repair, the answer is the same
        with pytest.raises(Quarantined, match="country breaks columns"):
            run(at)
        with pytest.raises(Quarantined, match="--batch 2024-02"):
            validate.accepted(at, "2024-02", CONTRACT)
    store.write_table(at.batch("2024-02"), months["2024-02"])
    assert [r.accepted for r in run(at)] == [True] * 3
    assert len(list(at.quarantine.iterdir())) == 1, "what was refused is kept"


def test_the_last_of_two_refusals_is_the_one_that_is_told(at, months):
    for price in (-1, -2):
        store.write_table(at.batch("2024-02"), months["2024-02"].assign(price=price))
        with pytest.raises(Quarantined, match=rf"e\.g\. {price};"):
            run(at, "2024-02")
    with pytest.raises(Quarantined, match=r"e\.g\. -2;"):
        run(at, "2024-02")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("truncated", lambda good: good[: len(good) // 2]),
        ("without its end", lambda good: good[:-1]),
        ("empty", lambda good: b""),
        ("CSV", lambda good: b"ordered_at,order,country\n2024-01-01,1,DE\n"),
        ("an error page", lambda good: b"<html>502 Bad Gateway</html>"),
        ("zeros", lambda good: bytes(len(good))),
        ("damaged schema", lambda good: good[:-400] + bytes(200) + good[-200:]),
    ],
)
def test_a_file_that_is_no_parquet_is_a_bad_batch_and_no_crash(at, name, spoil):
    good = at.batch("2024-01").read_bytes()
    at.batch("2024-01").write_bytes(spoil(good))
    with pytest.raises(
        Quarantined, match=r"the batch breaks readable: [\d,]+ bytes: .*whole Parquet"
    ):
        run(at, "2024-01")
    assert not at.batch("2024-01").exists()
    assert len(list(at.quarantine.iterdir())) == 1


@pytest.mark.parametrize("seed", range(3))
def test_bits_that_flip_never_crash_the_stage(at, seed):
    """They are refused, or change a value that the contract allows: the door knows no checksum."""
    good = at.batch("2024-01").read_bytes()
    random = np.random.default_rng(seed)
    for _ in range(60):
        bad = bytearray(good)
        for place in random.integers(0, len(bad), 4):
            bad[place] ^= 1 << random.integers(0, 8)
        table = validate._table(bytes(bad))
        assert isinstance(table, pd.DataFrame) or table.rule == "readable"


def test_a_batch_that_never_landed_says_how_to_land_it(at):
    for ask in (lambda: run(at, "2024-04"), lambda: validate.accepted(at, "2024-04", CONTRACT)):
        with pytest.raises(MissingInput, match="perennial ingest orders --batch 2024-04"):
            ask()
    with pytest.raises(MissingInput, match="perennial validate orders --batch 2024-01"):
        validate.accepted(at, "2024-01", CONTRACT)


def test_other_rows_under_an_accepted_name_are_not_accepted(at, months):
    run(at)
    store.write_table(at.batch("2024-01"), months["2024-01"].head(200))
    with pytest.raises(MissingInput, match="is of other rows"):
        validate.accepted(at, "2024-01", CONTRACT)


def test_a_result_that_cannot_be_read_is_made_again(at, caplog):
    results = run(at)
    at.validation("2024-01").write_text('{"task": "orders"}')
    assert run(at) == results
    assert "checking again" in caplog.text


# Killed anywhere.


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up, as nothing does after kill -9."""


def quick_check(table: pd.DataFrame, *_: object) -> tuple[Finding, ...]:
    """Stands in for Great Expectations: one rule, that no price is negative."""
    good = bool((table["price"] >= 0).all())
    return (Finding(rule="range", column="price", severity="critical", passed=good),)


@pytest.mark.parametrize("good", [True, False])
def test_killed_between_any_two_steps_the_next_run_ends_the_same(
    tmp_path, months, monkeypatch, good
):
    monkeypatch.setattr(expectations, "check", quick_check)

    def project(name: str) -> Paths:
        at = Paths(tmp_path / name, "orders")
        for period, rows in months.items():
            store.write_table(at.batch(period), rows)
        run(at)
        again = months["2024-03"].assign(price=5.0 if good else -5.0)
        store.write_table(at.batch("2024-03"), again)
        return at

    def attempt(at: Paths) -> bool:
        try:
            run(at)
        except Quarantined:
            return False
        return True

    whole = project("whole")
    assert attempt(whole) is good
    expected = tree(whole.data)
    steps, survived = 0, False
    while not survived:
        at = project(f"killed-{steps}")
        left = steps

        def step(real, *args, **kwargs):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            for owner, name in [(Path, "replace"), (Path, "rename"), (Path, "unlink")]:
                real = getattr(owner, name)
                patch.setattr(owner, name, lambda *a, _real=real, **k: step(_real, *a, **k))
            try:
                attempt(at)
                survived = True
            except Killed:
                pass
        attempt(at)
        store.sweep(at.data)
        assert tree(at.data) == expected, f"killed before step {steps}"
        steps += 1
    assert steps > 3, "there were moments to be killed at"


# Pages and Data Docs.


def test_the_page_fetches_nothing_and_shows_no_markup_of_others():
    nasty = '<script src="https://x.org/a.js">&"'
    finding = Finding(rule=nasty, column=nasty, severity="critical", passed=False, observed=nasty,
                      allowed=nasty, message=nasty)  # fmt: skip
    result = Validation(task=nasty, period=nasty, content=nasty, contract=nasty, rows=1,
                        accepted=False, findings=(finding,))  # fmt: skip
    html = pages.validation(result)
    assert "<script" not in html
    assert not re.search(r"""(src|href)\s*=|url\(|@import""", re.sub(r"&lt;.*?&quot;", "", html))
    assert "default-src 'none'" in html
    assert html == pages.validation(result)


def test_the_data_docs_do_not_grow_with_the_runs(at, months):
    run(at)
    files = {p for p in at.data_docs.rglob("*") if p.is_file()}
    assert at.data_docs / "site" / "index.html" in files
    assert all(any(m in str(p) for p in files) for m in MONTHS)
    run(at, contract=changed(CONTRACT, "price", max=1_000_000.0))
    assert {p for p in at.data_docs.rglob("*") if p.is_file()} == files
