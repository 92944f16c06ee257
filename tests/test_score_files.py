"""Files of rows are answered once, whole, and on record: pytest tests/test_score_files.py"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import contract, served, store
from pipelines.artifact import Artifact
from pipelines.contract import Contract
from pipelines.errors import (
    ArtifactError,
    BatchConflict,
    Busy,
    MissingInput,
    ParamsError,
    Quarantined,
    SourceError,
)
from pipelines.journal.frames import parse_id
from pipelines.lock import task_lock
from pipelines.paths import Paths
from pipelines.served import answers, day_files, files, labels
from pipelines.served.answers import Wanted
from pipelines.slices import row_keys
from pipelines.sources import rows as handed
from pipelines.stages import score_files as stage
from pipelines.wire.problem import Refused
from pipelines.wire.read import Wire
from pipelines.wire.schema import Shape
from tests.fakes import BETTER, PUMPS, WORSE, pump_graph, pump_model, pumps

ASKED = ["moment", "site", "heat", "noise", "repair_cost", "pump"]


@dataclass
class World:
    at: Paths
    models: dict[str, Artifact]
    champion: str = "1"
    described: Contract = PUMPS
    loaded: list[str] = field(default_factory=list)

    @property
    def inbox(self) -> Path:
        return self.at.root / "inbox"

    def put(self, name: str, rows: pd.DataFrame) -> Path:
        path = self.inbox / name
        if path.suffix == ".csv":
            rows.to_csv(path, index=False)
        else:
            rows.to_parquet(path, index=False)
        return path

    def score(self, out: Path | None = None) -> stage.Done:
        def model_of(version: str) -> Artifact:
            self.loaded.append(version)
            return self.models[version]

        return stage.run(
            "pumps", self.described, self.at, self.inbox, out or self.at.scored,
            self.champion, model_of,
        )  # fmt: skip

    def given(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.at.scored / name)

    def logged(self) -> pd.DataFrame:
        return answers.read(self.at, self.described, Wanted())

    def plainly_logged(self) -> list[str]:
        """Ids as any reader of Parquet finds them."""
        files = sorted(self.at.served.glob("answers/*/[!._]*.parquet"))
        return [i for path in files for i in pd.read_parquet(path)["id"]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    home = tmp_path_factory.mktemp("models")
    return {
        version: pump_model(home / version / "model", graph)
        for version, graph in {"1": WORSE, "2": BETTER}.items()
    }


@pytest.fixture
def world(tmp_path: Path, models: dict[str, Artifact]) -> World:
    (tmp_path / "inbox").mkdir()
    return World(Paths(tmp_path, "pumps"), models)


def rows(count: int = 40, seed: int = 0) -> pd.DataFrame:
    return pumps(count, seed=seed)[ASKED]


@pytest.mark.parametrize("name", ["today.csv", "today.parquet"])
def test_each_row_gets_the_champions_answer_in_the_files_order(world: World, name: str):
    asked = rows()
    world.put(name, asked)
    (done,) = world.score().answered
    assert (done.file, done.rows, done.version) == (name, 40, "1")
    found = world.given("today.parquet")
    assert list(found) == ["id", "version", "probability", "prediction", "pump", "moment"]
    np.testing.assert_allclose(found["probability"], world.models["1"].predict(asked), atol=1e-7)
    assert (found["prediction"] == (found["probability"] >= 0.5)).all()
    assert (found["pump"] == asked["pump"]).all()
    assert (found["moment"] == asked["moment"]).all()
    assert [parse_id(i).counter for i in found["id"]] == list(range(40))


def test_the_log_holds_the_same_answers_with_the_rows_as_asked(world: World):
    asked = rows()
    world.put("today.csv", asked)
    world.score()
    logged = world.logged().set_index("id").loc[world.given("today.parquet")["id"]].reset_index()
    for name in ("id", "version", "probability", "prediction"):
        assert (logged[name] == world.given("today.parquet")[name]).all()
    assert set(logged["route"]) == {"file"}
    assert logged["row"].tolist() == [f"{key:016x}" for key in row_keys(asked, PUMPS).tolist()]
    np.testing.assert_array_equal(logged["heat"], asked["heat"])
    assert (logged["site"] == asked["site"]).all()


@pytest.mark.parametrize(
    "bound", [{"CHUNK_ROWS": 7}, {"pictures_at_once": lambda contract: 7}], ids=["rows", "pixels"]
)
def test_many_rows_are_answered_in_parts_under_one_count(world: World, monkeypatch, bound):
    for name, limit in bound.items():
        monkeypatch.setattr(files, name, limit)
    asked, feed = [], Wire.table_feeds
    monkeypatch.setattr(
        Wire, "table_feeds", lambda self, part: asked.append(len(part)) or feed(self, part)
    )
    world.put("today.parquet", rows(40))
    world.score()
    found = world.given("today.parquet")
    assert [parse_id(i).counter for i in found["id"]] == list(range(40))
    np.testing.assert_allclose(found["probability"], world.models["1"].predict(rows(40)), atol=1e-7)
    assert sorted(world.logged()["id"]) == sorted(found["id"])
    assert asked == [7, 7, 7, 7, 7, 5]


def test_a_label_finds_its_answer_by_the_id_in_the_file(world: World, tmp_path: Path):
    world.put("today.csv", rows())
    world.score()
    told = world.given("today.parquet")[["id"]].assign(label=1)
    told.to_csv(tmp_path / "labels.csv", index=False)
    pairs = labels.from_file(tmp_path / "labels.csv", PUMPS)
    assert labels.take(world.at, PUMPS, pairs).accepted == 40
    assert labels.take(world.at, PUMPS, pairs).repeated == 40


# Once --------------------------------------------------------------------------------------------


def test_what_was_answered_is_not_answered_again(world: World):
    world.put("a.csv", rows())
    world.score()
    before = (world.at.scored / "a.parquet").read_bytes(), world.plainly_logged()
    world.champion = "2"
    world.put("b.csv", rows(seed=1))
    done = world.score()
    assert ([a.file for a in done.answered], done.before) == (["b.csv"], 1)
    assert world.loaded == ["1", "2"]
    assert (world.at.scored / "a.parquet").read_bytes() == before[0]
    assert world.score().answered == []
    assert len(world.plainly_logged()) == len(set(world.plainly_logged())) == 80


def test_the_same_content_under_another_name_or_for_another_folder_has_the_same_answers(
    world: World, tmp_path: Path
):
    world.put("a.csv", rows())
    world.score()
    world.champion = "2"
    world.put("copy.csv", rows())
    world.score()
    world.score(out=tmp_path / "elsewhere")
    for path in (world.at.scored / "copy.parquet", tmp_path / "elsewhere" / "a.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(path), world.given("a.parquet"))
    assert len(world.plainly_logged()) == 40


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", range(10))
def test_killed_at_any_step_and_run_again_each_row_has_one_answer(
    world: World, monkeypatch: pytest.MonkeyPatch, step: int
):
    """The next run is a day later, and there is another champion."""
    world.put("a.csv", rows())
    left = [step]

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args, **named)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying(Path.replace))
        patched.setattr(store.os, "fsync", dying(os.fsync))
        with pytest.raises(Killed):
            world.score()
    seen = [*world.logged()["id"]]
    tomorrow = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    world.champion = "2"
    world.score()
    given = world.given("a.parquet")["id"].tolist()
    assert len(given) == 40
    assert set(seen) <= set(given)
    assert sorted(world.plainly_logged()) == sorted(given)
    assert world.score().answered == []
    assert not list(world.at.served.rglob(".*"))


def test_answers_that_were_folded_since_are_still_known(world: World, monkeypatch):
    for seed in range(3):
        world.put(f"{seed}.csv", rows(seed=seed))
    world.score()
    monkeypatch.setattr(day_files, "MANY", 2)
    served.compact(world.at, PUMPS)
    assert len(list(world.at.served.glob("answers/*/*.parquet"))) == 1
    given = world.given("1.parquet")
    (world.at.scored / "1.parquet").unlink()
    world.score()
    pd.testing.assert_frame_equal(world.given("1.parquet"), given)
    assert len(world.plainly_logged()) == len(set(world.plainly_logged())) == 120


def test_other_content_under_an_answered_name_is_refused_with_the_command_that_mends_it(
    world: World,
):
    world.put("a.csv", rows())
    world.score()
    before = (world.at.scored / "a.parquet").read_bytes()
    path = world.put("a.csv", rows(seed=1))
    (error,) = world.score().refused
    assert isinstance(error, BatchConflict)
    assert "holds the answers to a a.csv of other content" in str(error)
    assert (world.at.scored / "a.parquet").read_bytes() == before
    command = shlex.split(str(error).split("name of its own: ")[1])
    assert command[:2] == ["mv", str(path)]
    subprocess.run(command, check=True)
    assert len(world.score().answered) == 1
    assert len(world.plainly_logged()) == 80


def test_two_files_that_would_have_one_name_are_not_mixed_up(world: World):
    world.put("a.csv", rows())
    world.put("a.parquet", rows(seed=1))
    done = world.score()
    assert [a.file for a in done.answered] == ["a.csv"]
    assert isinstance(done.refused[0], BatchConflict)


def test_a_file_that_somebody_else_left_there_is_not_overwritten(world: World):
    world.put("a.csv", rows())
    world.at.scored.mkdir(parents=True)
    (world.at.scored / "a.parquet").write_text("mine")
    assert "holds something else" in str(world.score().refused[0])
    assert (world.at.scored / "a.parquet").read_text() == "mine"


# Refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bad.csv", "bad.parquet"])
def test_a_wrong_row_refuses_its_file_whole_and_the_others_are_answered(world: World, name: str):
    wrong = rows()
    wrong.loc[3, "heat"] = np.nan
    wrong.loc[7, "moment"] = pd.Timestamp("1601-01-01")
    world.put(name, wrong)
    world.put("good.csv", rows(seed=1))
    done = world.score()
    assert [a.file for a in done.answered] == ["good.csv"]
    (error,) = done.refused
    assert isinstance(error, Quarantined)
    for said in (
        str(world.inbox / name),
        "rows[3].heat is null; allowed: a number",
        'rows[7].moment is "1601-01-01T00:00:00"; allowed: a time without an offset',
        f"perennial score pumps --files {world.inbox}",
    ):
        assert said in str(error)
    assert not (world.at.scored / "bad.parquet").exists()
    assert len(world.plainly_logged()) == 40
    assert len(list(world.at.served_files.iterdir())) == 1


def test_a_row_that_the_model_cannot_compute_with_refuses_its_file_and_no_other(
    world: World, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(files, "CHUNK_ROWS", 4)
    apart = pump_graph({"heat": 1e10, "noise": -1e10})
    world.models = {"1": pump_model(tmp_path / "apart" / "model", apart)}
    large = rows()
    large.loc[6, ["heat", "noise"]] = 3e38  # infinity less infinity
    world.put("a.csv", large)
    world.put("b.csv", rows(seed=1))
    done = world.score()
    assert [a.file for a in done.answered] == ["b.csv"]
    (error,) = done.refused
    assert isinstance(error, Quarantined)
    assert "a.csv is not answered" in str(error)
    assert "rows[6].heat is 3e38; allowed: a number within ±1e+20" in str(error)
    assert len(world.plainly_logged()) == 40
    world.put("a.csv", rows())
    assert [a.file for a in world.score().answered] == ["a.csv"]


def test_text_that_is_no_value_of_its_column_is_told_with_its_row(world: World):
    wrong = rows().astype(object)
    wrong.loc[5, "heat"] = "warm"
    wrong.loc[2, "pump"] = "1.5.2"
    wrong.loc[2, "moment"] = "yesterday"
    world.put("bad.csv", wrong)
    (error,) = world.score().refused
    lines = str(error).splitlines()[1:4]
    assert lines[0].startswith('  rows[2].moment is "yesterday"; allowed: a time')
    assert lines[1].startswith('  rows[2].pump is "1.5.2"; allowed: a whole number')
    assert lines[2].startswith('  rows[5].heat is "warm"; allowed: a number')


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"", SourceError, "cannot be read"),
        (b"moment,heat\n2024-03-02,1,2\n", SourceError, "Expected 2 columns, got 3"),
        (b"moment,heat\n\xff\xfe,1\n", SourceError, "cannot be read"),
        (b"moment,heat\n2024-03-02T00:00:00,1\n", Quarantined, "noise is missing"),
        (b"moment,site,heat,noise,repair_cost\n", Quarantined, "rows is 0"),
        (b"moment,site,heat,noise,repair_cost,sit\n,,,,,1\n", Quarantined, 'columns is "sit"'),
    ],
)
def test_what_is_no_file_of_rows_is_refused_and_named(world: World, content, kind, said):
    (world.inbox / "bad.csv").write_bytes(content)
    (error,) = world.score().refused
    assert isinstance(error, kind)
    assert str(world.inbox / "bad.csv") in str(error)
    assert said in str(error)
    assert not world.at.served.exists() or not any(world.at.served.rglob("*.parquet"))


def test_an_upload_that_is_not_finished_and_other_files_are_left_alone(world: World):
    for name in (".a.csv", "a.csv.part", "readme.md"):
        (world.inbox / name).write_text("no rows")
    assert world.score() == stage.Done([], 0, [])


def test_an_answer_that_is_no_probability_is_given_to_nobody(world: World, tmp_path: Path):
    broken = pump_graph({"heat": 1.0}, after=("Sigmoid", "Log"))
    world.models = {"1": pump_model(tmp_path / "broken" / "model", broken)}
    world.put("a.csv", rows())
    with pytest.raises(ArtifactError, match="rollback pumps"):
        world.score()
    assert not world.at.scored.exists()
    assert not any(world.at.served.rglob("*.*"))


def test_who_cannot_begin_says_so(world: World):
    with pytest.raises(ParamsError, match="where the questions are"):
        world.score(out=world.inbox)
    with task_lock(world.at.score_lock, "another", wait=False), pytest.raises(Busy):
        world.score()
    world.inbox.rmdir()
    with pytest.raises(MissingInput, match="mkdir -p"):
        world.score()


def test_personal_keys_reach_neither_log_nor_answers(world: World):
    text = PUMPS.model_dump_json().replace('"personal":false', '"personal":true', 2)
    world.described = contract.parse(text)
    assert world.described.columns["pump"].personal
    world.put("a.csv", rows().assign(pump=range(7_000_000, 7_000_040)))
    world.score()
    for found in (world.given("a.parquet"), world.logged()):
        assert not found["pump"].between(7_000_000, 7_000_040).any()
        assert found["pump"].nunique() == 40


# A file's rows are held to the service's rules ------------------------------------------------

WIRE = Wire(PUMPS, 10)
FINITE = st.floats(-1e6, 1e6)
NUMBERS = FINITE | FINITE | st.none() | st.floats(allow_nan=False, allow_infinity=False)
HONEST = st.datetimes(dt.datetime(1690, 1, 1), dt.datetime(2210, 1, 1))
TIMES = st.one_of(
    HONEST.map(lambda t: t.isoformat(timespec="seconds")),
    HONEST.map(lambda t: t.isoformat(timespec="microseconds")),
    st.sampled_from(
        [None, "2024-03-02T00:00:00Z", "2024-02-30T00:00:00", "2024-03-02T25:00:00", ""]
    ),
)
TEXTS = st.one_of(
    st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
)
ROW = st.fixed_dictionaries(
    {
        "moment": TIMES, "site": TEXTS, "heat": NUMBERS, "noise": NUMBERS,
        "repair_cost": NUMBERS, "pump": st.none() | st.integers(-(2**65), 2**65),
    }
)  # fmt: skip


def taken(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Refused:
        return None


def test_codes_that_were_kept_as_floats_are_read_as_a_batchs_are() -> None:
    shape = Wire(PUMPS, 10).shape
    for spelled, read in (("3.0\n\n4.0", ["3", None, "4"]), ("3.0\n\nA1", ["3.0", None, "A1"])):
        cells = "site,heat\n" + "".join(f"{c},1\n" for c in spelled.split("\n"))
        assert handed.read(".csv", cells.encode(), shape)["site"].to_pylist() == read


@given(st.lists(ROW, min_size=1, max_size=2))
def test_a_csv_is_taken_where_the_service_takes_its_rows_and_means_the_same(some):
    text = io.StringIO(newline="")
    written = csv.DictWriter(text, list(some[0]), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    written.writeheader()
    written.writerows(some)

    def from_file() -> dict[str, np.ndarray]:
        table = handed.read(".csv", text.getvalue().encode(), Shape(PUMPS, 1))
        return WIRE.table_feeds(WIRE.table(stage.files.stream(table), "arrow"))

    def from_service() -> dict[str, np.ndarray]:
        return WIRE.feeds(WIRE.rows(msgspec.json.encode({"rows": some})))

    ours, theirs = taken(from_file), taken(from_service)
    assert (ours is None) == (theirs is None)
    if ours is not None:
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values)


def test_the_answers_say_which_file_they_are_to(world: World):
    world.put("a.csv", rows())
    world.score()
    metadata = parquet.read_schema(world.at.scored / "a.parquet").metadata
    source = msgspec.json.decode(metadata[stage.SOURCE])
    digest = hashlib.sha256((world.inbox / "a.csv").read_bytes()).hexdigest()
    assert source == {"file": "a.csv", "sha256": digest}
