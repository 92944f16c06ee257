"""Pictures asked of the service and classes answered: `pytest tests/test_pictures_served.py`"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import contract as contracts
from pipelines import images, served
from pipelines.errors import SourceError
from pipelines.journal import Journal
from pipelines.paths import Paths
from pipelines.serve_params import Log, Serve
from pipelines.served import answers, bodies, day_files, labels
from pipelines.served import table as stored_as
from pipelines.service.answers import arrow_answer, json_answer
from pipelines.service.asked import Answered
from pipelines.service.label_body import labels_decoder, wrong_labels
from pipelines.service.pages import openapi
from pipelines.service.verify import compatible
from pipelines.sources import rows as handed
from pipelines.sources.digits import Digits
from pipelines.wire import bulk, schema
from pipelines.wire.json_schema import row_schema
from pipelines.wire.problem import Refused
from pipelines.wire.read import Wire
from tests.conftest import REPOSITORY
from tests.fakes import PUMPS, pump_model, pumps
from tests.wire_world import arrow_bytes, parquet_bytes

DIGITS = contracts.load(REPOSITORY / "contracts" / "digits.yaml")
WIRE = Wire(DIGITS, 100)
CLASSES = DIGITS.classes


def rows(n: int = 3) -> list[dict[str, Any]]:
    """As a request has them: the picture's file as base64."""
    batch = Digits("week").read("2024-W01").head(n)
    return [
        {
            "time": row.time.isoformat(),
            "id": row.id,
            "image": base64.b64encode(row.image).decode(),
        }
        for row in batch.itertuples()
    ]


def body(asked: list[dict[str, Any]]) -> bytes:
    return json.dumps({"rows": asked}).encode()


def pixels() -> np.ndarray:
    return images.stack(list(Digits("week").read("2024-W01").head(3)["image"]), (8, 8), "L")


def table(asked: list[dict[str, Any]]) -> pa.Table:
    return pa.table(
        {
            "time": pa.array(np.array([r["time"] for r in asked], "datetime64[us]")),
            "id": [r["id"] for r in asked],
            "image": pa.array([base64.b64decode(r["image"]) for r in asked], pa.binary()),
        }
    )


# in files ----------------------------------------------------------------------------------------


def test_a_csv_holds_pictures_as_json_does():
    asked = rows()
    found = handed.read(".csv", pd.DataFrame(asked).to_csv(index=False).encode(), WIRE.shape)
    assert found["image"].to_pylist() == table(asked)["image"].to_pylist()


def test_a_csv_holds_pictures_of_any_size():
    content = {"image": [b"\x89PNG" * 500_000] * 3}
    text = [base64.b64encode(data).decode() for data in content["image"]]
    found = handed.read(
        ".csv", pd.DataFrame({"image": text}).to_csv(index=False).encode(), WIRE.shape
    )
    assert found["image"].to_pylist() == content["image"]


def test_what_is_no_base64_in_a_csv_is_told_by_row():
    asked = [row | {"image": text} for row, text in zip(rows(), ["", "a.png", "ü"], strict=True)]
    with pytest.raises(Refused) as refused:
        handed.read(".csv", pd.DataFrame(asked).to_csv(index=False).encode(), WIRE.shape)
    told = [mistake.message for mistake in refused.value.problem.errors]
    assert [t.partition(";")[0] for t in told] == [
        'rows[1].image is "a.png"',
        'rows[2].image is "ü"',
    ]
    assert all("in JSON and CSV as base64" in message for message in told)


# asked --------------------------------------------------------------------------------------------


def test_the_graph_reads_the_pixels_of_the_files_that_were_sent():
    feeds = WIRE.feeds(WIRE.rows(body(rows())))
    assert np.array_equal(feeds["image"], pixels())
    assert feeds["image"].dtype == np.uint8


@pytest.mark.parametrize("media", ["arrow", "parquet"])
def test_a_table_gives_the_same_pixels_as_json(media):
    sent = arrow_bytes(table(rows())) if media == "arrow" else parquet_bytes(table(rows()))
    feeds = WIRE.table_feeds(WIRE.table(sent, media))
    assert np.array_equal(feeds["image"], pixels())


WRONG = {
    "no picture": b"hello",
    "half a picture": images.png(np.zeros((8, 8, 1), np.uint8))[:60],
    "another size": images.png(np.zeros((9, 8, 1), np.uint8)),
    "another mode": images.png(np.zeros((8, 8, 3), np.uint8)),
}


@pytest.mark.parametrize("file", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("media", ["json", "arrow"])
def test_a_file_that_is_no_such_picture_is_refused_by_row_with_what_is_allowed(file, media):
    asked = rows()
    asked[1]["image"] = base64.b64encode(file).decode()
    sent = body(asked) if media == "json" else arrow_bytes(table(asked))
    with pytest.raises(Refused) as refused:
        WIRE.rows(sent) if media == "json" else WIRE.table(sent, "arrow")
    (mistake,) = refused.value.problem.errors
    assert mistake.field == "rows[1].image"
    assert "8 x 8 pixels, mode L" in mistake.allowed
    assert len(mistake.message) < 600


@pytest.mark.parametrize("value", [None, 7, "", "not base64!", ["a"]])
def test_what_is_no_file_at_all_is_refused(value):
    with pytest.raises(Refused) as refused:
        WIRE.rows(body([rows()[0] | {"image": value}]))
    assert refused.value.problem.errors[0].field == "rows[0].image"


@pytest.mark.parametrize("media", ["json", "arrow", "parquet"])
def test_more_pixels_than_fit_into_the_memory_are_refused_before_any_is_unfolded(
    media, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(schema, "UNFOLDED", 2 * 8 * 8)
    wire = Wire(DIGITS, 100)

    def read(n: int) -> int:
        if media == "json":
            return len(wire.rows(body(rows(n))))
        sent = arrow_bytes(table(rows(n))) if media == "arrow" else parquet_bytes(table(rows(n)))
        return int(wire.table(sent, media).num_rows)

    assert read(2) == 2
    monkeypatch.setattr(images, "decode", None)  # nothing may be asked of it
    with pytest.raises(Refused) as refused:
        read(3)
    assert (refused.value.problem.kind, refused.value.problem.status) == ("too-large", 413)
    assert "parts of at most 2 rows" in refused.value.problem.detail


def test_one_row_is_always_taken_and_columns_of_numbers_are_not_bounded_by_it(monkeypatch):
    monkeypatch.setattr(schema, "UNFOLDED", 1)
    assert schema.pictures_at_once(DIGITS) == 1
    assert schema.pictures_at_once(PUMPS) > 10**9


def test_one_file_in_every_row_is_not_multiplied(monkeypatch):
    """In Parquet a file that all rows name stands there once, and its footer counts it once."""
    asked = rows(1)
    padded = base64.b64decode(asked[0]["image"]) + bytes(10_000)
    asked[0]["image"] = base64.b64encode(padded).decode()
    sent = parquet_bytes(table(asked * 50), dictionary_pagesize_limit=2**20)
    assert len(sent) < 30_000
    once = WIRE.table_feeds(WIRE.table(parquet_bytes(table(asked)), "parquet"))["image"]
    feeds = WIRE.table_feeds(WIRE.table(sent, "parquet"))
    assert np.array_equal(feeds["image"], np.repeat(once, 50, axis=0))
    monkeypatch.setattr(bulk, "UNFOLDED", 50 * len(padded) - 1)
    with pytest.raises(Refused) as refused:
        WIRE.table(sent, "parquet")
    assert refused.value.problem.kind == "too-large"


def test_a_column_of_no_pictures_at_all_is_told_by_its_rows():
    made = table(rows())
    at = made.column_names.index("image")
    sent = parquet_bytes(made.set_column(at, "image", pa.nulls(made.num_rows)))
    with pytest.raises(Refused) as refused:
        WIRE.table_feeds(WIRE.table(sent, "parquet"))
    assert refused.value.problem.kind == "invalid-rows"
    assert refused.value.problem.errors[0].field == "rows[0].image"


def test_the_key_may_be_left_out_and_the_picture_may_not():
    bare = {name: value for name, value in rows()[0].items() if name != "id"}
    assert len(WIRE.rows(body([bare]))) == 1
    with pytest.raises(Refused):
        WIRE.rows(body([{name: value for name, value in bare.items() if name != "image"}]))


def test_the_documentation_says_what_a_picture_is():
    said = row_schema(DIGITS)["properties"]["image"]
    assert said["contentEncoding"] == "base64"
    assert "8 x 8 pixels" in said["description"]


# answered -----------------------------------------------------------------------------------------


def test_no_call_of_the_graph_has_more_rows_than_its_bound(tmp_path: Path, monkeypatch):
    made = pump_model(tmp_path / "made" / "model")
    feeds = made.feeds(pumps(10))
    whole, run, ran = made.run(feeds), made._session.run, []

    def counted(output: list[str], some: dict[str, np.ndarray]) -> list[np.ndarray]:
        ran.append(len(some["heat"]))
        return run(output, some)

    monkeypatch.setattr(made._session, "run", counted)
    monkeypatch.setitem(made.__dict__, "_at_once", 4)
    assert np.array_equal(made.run(feeds), whole)
    assert ran == [4, 4, 2]


of_classes = st.lists(
    st.lists(st.floats(0, 1, width=32), min_size=10, max_size=10), min_size=1, max_size=5
)


def answered(probability: list[list[float]]) -> Answered:
    called = [CLASSES[int(np.argmax(p))] for p in probability]
    return Answered("3", "champion", "digits-3-20240101-00c0ffee-", 7, probability, called, CLASSES)


@given(of_classes)
def test_an_answer_names_the_likeliest_class_and_the_probability_of_each(probability):
    told = json.loads(json_answer("digits", answered(probability)))["predictions"]
    for said, given_ in zip(told, probability, strict=True):
        assert list(said["probabilities"]) == list(CLASSES)
        assert np.array_equal(np.float32(list(said["probabilities"].values())), np.float32(given_))
        assert said["prediction"] == CLASSES[int(np.argmax(given_))]
        assert said["probability"] == max(said["probabilities"].values())


@given(of_classes)
def test_arrow_tells_the_same_as_json(probability):
    told = json.loads(json_answer("digits", answered(probability)))["predictions"]
    found = pa.ipc.open_stream(arrow_answer(answered(probability))).read_all().to_pylist()
    for json_row, row in zip(told, found, strict=True):
        assert row["id"] == json_row["id"]
        assert row["prediction"] == json_row["prediction"]
        assert np.float32(row["probability"]) == np.float32(json_row["probability"])
        assert np.allclose(row["probabilities"], list(json_row["probabilities"].values()))


def test_the_answer_is_what_the_documentation_says():
    import jsonschema

    schemas = openapi.document(DIGITS, None, None, Serve())["components"]["schemas"]
    told = json.loads(json_answer("digits", answered([[0.1] * 10])))
    whole = {"$ref": "#/components/schemas/Answer", "components": {"schemas": schemas}}
    jsonschema.validate(told, whole)
    told["predictions"][0]["prediction"] = "10"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(told, whole)


# logged and labelled ------------------------------------------------------------------------------


def test_the_log_keeps_the_file_the_probabilities_and_the_class(tmp_path: Path):
    at = Paths(tmp_path, "digits")
    journal = Journal(at.journals, "digits", Log())
    given_ = np.random.default_rng(0).dirichlet(np.ones(10), 3).astype(np.float32)
    many = arrow_bytes(table(rows()))
    for media, sent, flat in (
        ("json", body(rows()), given_.ravel().tolist()),
        ("arrow", many, given_.tobytes()),
    ):
        journal.add(
            first=3 if media == "arrow" else 0, rows=3, version="1", route="champion", at=1.7e9,
            latency=0.001, threshold=0.0, media=media, probabilities=flat, body=sent,
        )  # fmt: skip
    journal.close()
    before = answers.read(at, DIGITS, answers.Wanted())
    served.compact(at, DIGITS)
    after = answers.read(at, DIGITS, answers.Wanted())
    for found in (before, after):
        kept = np.array(found["probability"].tolist())
        assert np.allclose(kept, np.vstack([given_, given_]))
        expected = [CLASSES[k] for k in given_.argmax(axis=1)]
        assert found["prediction"].tolist() == expected * 2
        files = [base64.b64decode(r["image"]) for r in rows()]
        assert found["image"].tolist() == files * 2
        assert (found["row"] != "").all()
        assert found[bodies.stored("id")].tolist() == [r["id"] for r in rows()] * 2


@pytest.mark.parametrize(
    ("group", "alike", "most"),
    [(40, True, 4e6), (40, False, 4e6), (400, True, 12e6), (400, False, 20e6)],
)
def test_the_folding_of_a_day_of_large_pictures_holds_few_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, alike: bool, most: float
):
    """Two files of 8 MB. Of one large group, a page and what it unfolds to are there at once."""
    monkeypatch.setattr(day_files, "GROUP_BYTES", 1_000_000)
    monkeypatch.setattr(day_files, "BATCH_BYTES", 100_000)
    kind = stored_as.schema(DIGITS)
    names = [[f"{part}-{i}" for i in range(400)] for part in "ab"]
    draw = np.random.default_rng(0)
    for part in names:
        files_ = [draw.bytes(20_000)] * 400 if alike else [draw.bytes(20_000) for _ in part]
        filled = {"id": pa.array(part), "image": pa.array(files_, pa.binary())}
        columns = [filled.get(f.name, pa.nulls(400, f.type)) for f in kind]
        with day_files.writing(tmp_path / f"{part[0]}.parquet", kind) as file:
            file.write_table(pa.Table.from_arrays(columns, schema=kind), row_group_size=group)
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        day_files.fold(tmp_path, over=True)
    finally:
        pa.set_memory_pool(before)
    assert 0 < pool.max_memory() < most
    (folded,) = tmp_path.iterdir()
    assert parquet.read_table(folded)["id"].to_pylist() == [*names[0], *names[1]]


def test_labels_are_told_by_their_class(tmp_path: Path):
    decode = labels_decoder(DIGITS).decode
    assert decode(b'{"labels": [{"id": "a", "label": "7"}]}').labels[0].label == "7"
    with pytest.raises(msgspec.ValidationError) as error:
        decode(b'{"labels": [{"id": "a", "label": 7}]}')
    told = wrong_labels(str(error.value), CLASSES)
    assert "one of 0, 1, 2" in told.errors[0].allowed

    name = "digits-1-20240101-00c0ffee-1"
    (tmp_path / "labels.csv").write_text(f"id,label\n{name},7\n")
    assert labels.from_file(tmp_path / "labels.csv", DIGITS) == [(name, 7)]
    (tmp_path / "labels.csv").write_text(f"id,label\n{name},seven\n")
    with pytest.raises(SourceError, match="must be one of 0, 1"):
        labels.from_file(tmp_path / "labels.csv", DIGITS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": [9, 8]}, "image of 9 x 8, L in the model and image of 8 x 8, L in the contract"),
        ({"mode": "RGB"}, "image of 8 x 8, RGB in the model"),
    ],
)
def test_a_model_of_other_pictures_does_not_answer(change, said):
    content = DIGITS.model_dump(mode="json")
    content["columns"]["image"] |= change
    other = contracts.Contract.model_validate_json(json.dumps(content))
    assert said in compatible(other, DIGITS)


def test_a_model_of_other_classes_does_not_answer():
    content = DIGITS.model_dump(mode="json")
    content["columns"]["digit"]["values"] = list(CLASSES[::-1])
    other = contracts.Contract.model_validate_json(json.dumps(content))
    assert "classes is 9, 8" in compatible(other, DIGITS)
