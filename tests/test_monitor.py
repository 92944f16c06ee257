"""The monitor's stage, its judge of performance and its page. Run: pytest tests/test_monitor.py"""

import datetime as dt
import logging
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from pipelines import artifact, metrics, store
from pipelines.adapters import drift
from pipelines.drift import performance, profile
from pipelines.params import Monitor, task
from pipelines.paths import Paths
from pipelines.records import Alarm, ColumnDrift
from pipelines.stages import monitor
from pipelines.tasks import tabular
from tests import fakes
from tests.conftest import REPOSITORY
from tests.fakes import BETTER, PUMPS, WORSE, pump_model

SETTINGS = Monitor()
TASK = task(REPOSITORY / "params.yaml", "flights").model_copy(
    update={"period": "week", "monitor": SETTINGS}
)
BEFORE, PERIOD = "2024-W09", "2024-W10"
MADE = dt.datetime(2024, 3, 1)
"""When the champion was registered."""
INJECTED = "</script><script>alert(1)</script>"
WEEK = 3360
"""Readings of a week, one every three minutes."""


def pumps(*which: object) -> pd.DataFrame:
    """Readings of which no column gives the label away."""
    return fakes.pumps(*which).assign(repair_cost=0.0)


@pytest.fixture(scope="module")
def champions(tmp_path_factory):
    """Two real artifacts with the picture of eight weeks; one of them overlooks the noise."""
    training = pumps(8 * WEEK, "2024-01-01")
    made = {}
    for name, graph in (("sound", BETTER), ("deaf", WORSE)):
        folder = pump_model(tmp_path_factory.mktemp("models") / name, graph).folder
        profile.write(profile.make(tabular.watched(training, PUMPS, None), seed=7), folder)
        manifest = {file: store.md5(folder / file) for file in artifact.FILES}
        store.write_json(folder / "manifest.json", manifest)
        made[name] = artifact.load(folder)
    return made


@pytest.fixture
def at(tmp_path) -> Paths:
    paths = Paths(tmp_path, "pumps")
    # Its labels are not known yet: a monitor that looks at them fails here.
    store.write_table(paths.batch(PERIOD), pumps(WEEK, "2024-03-04", 1).drop(columns="failed"))
    return paths


def answer(at, model, version="1", label=lambda rows: rows["failed"], part=slice(None)):
    """The model's answers to the week before, and the labels that have come."""
    rows = pumps(WEEK, "2024-02-26", 2)
    ids = [f"pumps-{version}-{i:016x}" for i in rows["pump"]]
    answers = rows.drop(columns="failed").assign(
        id=ids, version=version, probability=model.predict(rows), threshold=0.5,
        at=pd.Timestamp("2024-03-04 06:00"),
    )  # fmt: skip
    store.write_table(at.predictions(BEFORE), answers)
    labels = pd.DataFrame({"id": ids, "label": label(rows)})
    store.write_table(at.labels(BEFORE), labels[part])


def watch(at, model, version="1", made=MADE, pages=False) -> Alarm:
    return monitor.run("pumps", TASK, PUMPS, at, PERIOD, model, version, made, pages=pages)


def test_a_calm_week_raises_nothing_and_is_kept_the_same_twice(at, champions):
    answer(at, champions["sound"])
    alarm = watch(at, champions["sound"])
    assert not alarm.raised
    assert alarm.reasons == ()
    assert alarm.performance is not None
    assert alarm.performance.period == BEFORE
    written = at.alarm(PERIOD).read_bytes()
    assert Alarm.model_validate_json(written) == alarm
    assert watch(at, champions["sound"]) == alarm
    assert at.alarm(PERIOD).read_bytes() == written
    assert not at.drift_page(PERIOD).exists()


def test_a_moved_column_is_named_with_its_numbers(at, champions):
    rows = pumps(WEEK, "2024-03-04", 1).drop(columns="failed")
    store.write_table(at.batch(PERIOD), rows.assign(heat=rows["heat"] + 0.5))
    alarm = watch(at, champions["sound"])
    assert alarm.raised
    assert {c.column for c in alarm.columns if c.drifted} == {"heat"}
    assert re.search(r"heat by 0\.[45]\d \(at most 0\.\d\d in training\)", alarm.reasons[0])


def test_what_was_answered_under_the_number_before_a_registry_was_made_anew_is_not_judged(
    at, champions
):
    answer(at, champions["deaf"])
    assert watch(at, champions["deaf"], made=dt.datetime(2024, 3, 4, 6)).performance is not None
    assert watch(at, champions["deaf"], made=dt.datetime(2024, 3, 4, 7)).performance is None


def test_labels_that_teach_more_than_the_champion_knows_raise_an_alarm(at, champions):
    answer(at, champions["deaf"])
    alarm = watch(at, champions["deaf"])
    assert alarm.raised
    assert alarm.performance.degraded
    assert len(alarm.reasons) == 1
    assert f"the labels of {BEFORE} teach +" in alarm.reasons[0]


def test_a_champion_that_fell_far_raises_an_alarm(at, champions):
    random = np.random.default_rng(3)
    answer(at, champions["sound"], label=lambda rows: random.integers(0, 2, len(rows)))
    alarm = watch(at, champions["sound"])
    assert alarm.performance.degraded
    assert len(alarm.reasons) == 1
    assert "against 0.780 when the model was made (a fall of 0.1 allowed)" in alarm.reasons[0]


def test_before_the_first_labels_only_the_inputs_speak(at, champions):
    alarm = watch(at, champions["sound"])
    assert alarm.performance is None
    assert not alarm.raised


def test_answers_of_another_version_say_nothing_of_this_one(at, champions, caplog):
    answer(at, champions["deaf"], version="1")
    with caplog.at_level(logging.INFO):
        alarm = watch(at, champions["sound"], version="2")
    assert alarm.performance is None
    assert not alarm.raised
    assert f"{WEEK} of {WEEK} answers to {BEFORE} left out" in caplog.text


def test_only_rows_whose_labels_came_are_judged(at, champions):
    answer(at, champions["sound"], part=slice(1000))
    assert watch(at, champions["sound"]).performance.rows == 1000
    answer(at, champions["sound"], part=slice(100))
    assert watch(at, champions["sound"]).performance is None


def test_a_contract_with_other_columns_is_an_alarm_by_itself(at, champions):
    columns = {name: c for name, c in PUMPS.columns.items() if name != "noise"}
    without = PUMPS.model_copy(update={"columns": columns})
    model = champions["sound"]
    alarm = monitor.run("pumps", TASK, without, at, PERIOD, model, "1", MADE, pages=False)
    assert alarm.raised
    assert alarm.reasons == (
        "the contract's columns are not those of version 1: new none, gone noise",
        "version 1 cannot answer rows of the contract: the model reads noise, which no row has",
    )
    assert at.alarm(PERIOD).is_file()


def test_a_page_that_cannot_be_drawn_is_said_and_stops_nothing(at, champions, monkeypatch, caplog):
    def broken(*words):
        raise ValueError("no <charts> today")

    monkeypatch.setattr(drift, "_charts", broken)
    drawn = watch(at, champions["sound"], pages=True)
    assert drawn == watch(at, champions["sound"], pages=False)
    assert "no <charts> today" in caplog.text
    page = at.drift_page(PERIOD).read_text()
    assert "Evidently could not draw its charts: no &lt;charts&gt; today" in page
    assert "No alarm" in page


def test_the_page_writes_every_name_as_text():
    column = ColumnDrift(column=INJECTED, effect=1, floor=0.1, p_value=0.001, drifted=True)
    alarm = Alarm(
        task=INJECTED, period="2024-W10", champion=INJECTED, rows=1, columns=(column,),
        raised=True, reasons=(INJECTED,),
    )  # fmt: skip
    assert "<script" not in drift.plain_page(alarm, INJECTED)


@given(st.integers(0, 10_000))
@effort(max_examples=25, deadline=None)
def test_resampled_blocks_give_the_auc_of_the_repeated_rows(seed):
    """Counting pairs by block is the same as drawing the blocks' rows and counting again."""
    random = np.random.default_rng(seed)
    label, block = random.integers(0, 2, 120), np.sort(random.integers(0, 6, 120))
    label[:2] = 0, 1
    score = random.integers(0, 9, 120) / 9  # with ties
    (found,) = performance._aucs(label, (score,), block, seed)
    assert found[0] == pytest.approx(metrics.auc(label, score))
    names, inside = np.unique(block, return_inverse=True)
    even = np.full(len(names), 1 / len(names))
    weights = np.random.default_rng(seed).multinomial(len(names), even, performance.RESAMPLES)
    for i in range(5):
        rows = np.repeat(np.arange(120), weights[i][inside])
        expected = metrics.auc(label[rows], score[rows])
        assert found[1 + i] == pytest.approx(expected, nan_ok=True)


def test_noise_in_the_labels_teaches_nothing_and_is_no_reason_to_retrain(champions):
    rows = pumps(WEEK, "2024-02-26", 2)
    random = np.random.default_rng(5)
    noisy = np.where(random.random(WEEK) < 0.15, random.permutation(rows["failed"]), rows["failed"])
    labelled = rows.assign(probability=champions["sound"].predict(rows), label=noisy)
    judged = performance.judge("w", labelled, PUMPS, 0.78, SETTINGS, 7)
    assert judged.auc < 0.78
    assert not judged.degraded


def test_labels_that_depend_on_the_time_of_day_are_ones_to_learn_from():
    rows = pumps(WEEK, "2024-03-04", 1)
    late = (rows["moment"].dt.hour >= 12).to_numpy().astype(int)
    judged = performance.judge(
        "w", rows.assign(probability=0.3, label=late), PUMPS, 0.78, SETTINGS, 7
    )
    assert judged.auc == 0.5
    assert judged.learnable > 0.95
    assert judged.degraded


def test_the_columns_of_the_page_are_ones_that_evidently_reads():
    table = pumps(200).convert_dtypes().assign(noise=np.nan, moment=pumps(200)["moment"])
    table.loc[:9, "site"] = pd.NA
    narrow = table.assign(heat=table["heat"] * 1e-6)
    known = profile.make(tabular.watched(narrow, PUMPS, None), seed=7)
    framed = drift.frame(narrow, known.summary)
    assert set(map(str, framed.dtypes)) == {"float64", "object"}
    assert framed["heat"].std() == pytest.approx(1, rel=0.05)
    assert framed["site"].isna().sum() == 10


@pytest.mark.slow
def test_the_real_page_needs_no_other_address_and_names_what_drifted(at, champions):
    rows = pumps(WEEK, "2024-03-04", 1).drop(columns="failed")
    rows = rows.assign(
        heat=rows["heat"] + 0.5,
        noise=np.nan,
        site=np.where(rows["pump"] % 3 == 0, INJECTED, rows["site"]),
    )
    store.write_table(at.batch(PERIOD), rows)
    alarm = watch(at, champions["sound"], pages=True)
    page = at.drift_page(PERIOD).read_text()

    drifted = {c.column for c in alarm.columns if c.drifted}
    assert drifted == {"heat", "site", "noise (missing)"}
    ours = page[page.index("<section") : page.index("</section>")]
    for column in drifted:
        assert f">{column}</td>" in ours
    assert "could not draw" not in page
    # Evidently measures what we measure.
    assert "total variation" in page
    assert "Wasserstein" in page
    # No tag fetches anything, and the browser is told to refuse whatever a script would.
    tags = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert not re.findall(r"(?:href|src)\s*=\s*[\"']?\s*(?:https?:)?//", tags)
    assert not re.findall(r"@import|url\(\s*[\"']?(?:https?:)?//", tags)
    assert page.index("Content-Security-Policy") < page.index("<script")
    assert drift.POLICY.startswith("default-src 'none'")
    assert "http" not in drift.POLICY
    assert INJECTED not in page
