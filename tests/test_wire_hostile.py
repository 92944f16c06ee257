"""Bodies that mean harm, or are merely odd: pytest tests/test_wire_hostile.py"""

from __future__ import annotations

import decimal
import json
import struct
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import contract as contracts
from pipelines.served import bodies, hidden
from pipelines.served.bodies import Asked
from pipelines.slices import row_keys
from pipelines.wire import bulk
from pipelines.wire.problem import MOST, Refused, shown
from pipelines.wire.read import Wire
from tests.wire_world import arrow_bytes, parquet_bytes

CONTRACT = contracts.parse("""
task: orders
time: at
key: [id]
label: late
columns:
  at: {type: timestamp}
  id: {type: integer, feature: false}
  price: {type: number, min: 0, max: 10, unit: €}
  weight: {type: number, nulls: 0.5, at_most: price}
  items: {type: integer, min: 1}
  gift: {type: boolean}
  shop: {type: category, values: [north, south], nulls: 0.1}
  note: {type: category}
  late: {type: integer}
""")
WIRE = Wire(CONTRACT, max_rows=10)
ROW: dict[str, Any] = {
    "at": "2024-05-01T09:30:00", "price": 5.0, "weight": 1.5, "items": 3, "gift": True,
    "shop": "north", "note": "x", "id": 7,
}  # fmt: skip
BODY = json.dumps({"rows": [ROW]}).encode()


def body(**edits: Any) -> bytes:
    return json.dumps({"rows": [ROW | edits]}).encode()


def raw(field: str, token: str) -> bytes:
    """The row with a value written as it stands."""
    return body(**{field: "@"}).replace(b'"@"', token.encode())


def refusal(content: bytes, media: Any = None, wire: Wire = WIRE) -> Any:
    """Any other exception than Refused fails the test that asks."""
    with pytest.raises(Refused) as refused:
        wire.table(content, media) if media else wire.rows(content)
    problem = refused.value.problem
    assert 400 <= problem.status < 500
    assert json.loads(problem.body())["status"] == problem.status
    return problem


# JSON.


def named(value: object) -> str:
    """Without addresses in it, so that two processes give a test the same name."""
    if not isinstance(value, dict):
        return str(value)
    return ",".join(f"{k}:{v.type if isinstance(v, pa.Array) else v}" for k, v in value.items())


@pytest.mark.parametrize(
    "content",
    [
        b"", b" ", b"\x00", b"{", b"nonsense", BODY[:-1], BODY + b"x", BODY + BODY,
        b"\xef\xbb\xbf" + BODY, BODY.decode().encode("utf-16"), BODY.decode().encode("utf-32-le"),
        BODY.replace(b'"x"', b'"\xff"'), BODY.replace(b'"x"', b'"\xed\xa0\x80"'),
        BODY.replace(b'"x"', b'"\xc0\x80"'), BODY.replace(b'"note"', b'"\xff"'),
        raw("note", '"\\ud800"'), raw("note", '"\\udc00x"'), raw("note", '"\\ud800\\u0041"'),
        raw("note", '"a\nb"'), raw("note", '"\\x"'), raw("note", "'x'"),
        raw("price", "NaN"), raw("price", "Infinity"), raw("price", "-Infinity"),
        raw("price", "01"), raw("price", "+1"), raw("price", ".5"), raw("price", "1."),
        b'{"rows":[{"a":1e999},', b'{"rows":[{"a":1e999}]]', b"1e999 x",
        # A number that no float holds, and half of a pair: in a value, a name and a place for rows.
        raw("price", "1e999").replace(b'"x"', b'"\\ud800"'), raw("price", '1e999,"\\ud800":1'),
        b'{"a":1e999,"rows":"\\ud800"}',
        b"[" * 100_000, b'{"a":' * 100_000, b'{"rows":' + b"[" * 100_000,
        b'{"rows":[' + b'{"at":' * 100_000, BODY.replace(b'"x"', b"[" * 50_000),
    ],
    ids=lambda content: repr(content[:40]),
)  # fmt: skip
def test_what_is_no_json_is_unreadable(content):
    problem = refusal(content)
    assert (problem.kind, problem.status) == ("unreadable", 400)


@pytest.mark.parametrize(
    ("field", "token"),
    [
        *((f, t) for f in ("price", "items", "id") for t in ("1e999", "-1e999", "9" * 500, "1e400",
          "9" * 6000, '"1"', "true", "[]", "{}", "null", "-" + "9" * 5000)),
        ("price", "3.5e38"), ("price", "-0.0001"), ("price", "10.1"), ("price", '"NaN"'),
        ("items", "1.5"), ("items", "0"), ("items", "9007199254740993"), ("items", "-0"),
        ("id", "9223372036854775808"), ("id", "1e19"), ("id", "0.5"),
        ("gift", "1"), ("gift", "0"), ("gift", '"true"'), ("gift", "null"),
        ("shop", '"North"'), ("shop", '"north "'), ("shop", '"nor\\u0000th"'), ("shop", '""'),
        ("shop", "1"), ("note", "null"), ("note", "1"), ("note", '"' + "x" * 1001 + '"'),
        ("at", '"2024-05-01T09:30:00Z"'), ("at", '"2024-05-01T09:30:00+00:00"'),
        ("at", '"2024-05-01"'), ("at", '"2024-02-30T00:00:00"'), ("at", "1714555800"),
        ("at", '"0001-01-01T00:00:00"'), ("at", '"9999-12-31T23:59:59"'), ("at", "null"),
        ("at", '""'), ("weight", "5.5"), ("weight", '"heavy"'),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_by_field_value_and_what_is_allowed(field, token):
    problem = refusal(raw(field, token))
    assert problem.status == 422
    (mistake,) = problem.errors
    assert mistake.field == f"rows[0].{field}"
    assert len(str(mistake.value)) <= 80
    assert mistake.allowed in mistake.message


@pytest.mark.parametrize(
    ("field", "token", "read"),
    [
        ("price", "-0", 0.0), ("price", "-0.0", 0.0), ("price", "1e-999", 0.0),
        ("price", "1E1", 10.0), ("price", "3", 3.0), ("items", "12.0", 12.0), ("items", "1e2", 100),
        ("items", "9007199254740992", 2.0**53), ("note", '"\\u0000"', "\x00"),
        ("note", '"\\ud83d\\ude00"', "😀"), ("note", '""', ""), ("note", '"' + "x" * 1000 + '"', "x" * 1000),
        ("shop", "null", ""), ("at", '"2024-05-01 09:30:00.999999"', 1714555800),
        ("at", '"1700-01-01T00:00:00"', -8520336000), ("weight", "5.0", 5.0),
    ],
)  # fmt: skip
def test_odd_but_right_values_are_read(field, token, read):
    content = raw(field, token)
    if field == "price":  # which bounds the weight
        content = content.replace(b'"weight": 1.5', b'"weight": null')
    assert WIRE.feeds(WIRE.rows(content))[field].tolist() == [read]


def test_a_name_given_twice_counts_as_given_last_and_each_must_be_right():
    twice = BODY.replace(b'"price": 5.0', b'"price": 5.0, "price": 6.0')
    assert WIRE.feeds(WIRE.rows(twice))["price"].tolist() == [6.0]
    problem = refusal(BODY.replace(b'"price": 5.0', b'"price": "x", "price": 6.0'))
    assert "twice" in problem.detail


def test_every_mistake_is_found_and_the_first_twenty_are_told():
    wrong = {"at": 1, "price": 11, "items": 0.5, "shop": "west", "colour": "red"}
    rows = [{k: v for k, v in (ROW | wrong).items() if k != "gift"}, 5, ROW]
    problem = refusal(json.dumps({"rows": rows, "extra": 1}).encode())
    assert [m.field for m in problem.errors] == [
        "extra", "rows[0].at", "rows[0].price", "rows[0].items", "rows[0].gift", "rows[0].shop",
        "rows[0].colour", "rows[1]",
    ]  # fmt: skip
    told = {m.field: m for m in problem.errors}
    assert told["rows[0].price"].allowed == "a number from 0 to 10 €"
    assert told["rows[0].shop"].allowed == "one of north, south, or null"
    assert "rows[0].gift is missing" in told["rows[0].gift"].message
    assert "value" not in json.loads(problem.body())["errors"][4]
    many = refusal(json.dumps({"rows": [ROW | wrong] * 9}).encode())
    assert (len(many.errors), many.more) == (MOST, 9 * 5 - MOST)
    assert json.loads(many.body())["more"] == 25


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("[]", "the request"), ("1", "the request"), ("null", "the request"), ('"rows"', "the request"),
        ("{}", "rows"), ('{"rows": []}', "rows"), ('{"rows": {}}', "rows"), ('{"rows": null}', "rows"),
        ('{"rows": "x"}', "rows"), ('{"Rows": []}', "Rows"), ('{"rows": [[]]}', "rows[0]"),
        ('{"rows": [null]}', "rows[0]"), (json.dumps({"rows": [ROW] * 11}), "rows"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_rows_is_told(content, field):
    assert refusal(content.encode()).errors[0].field == field


@settings(max_examples=300)
@given(st.data())
def test_no_bytes_do_more_than_be_refused(data):
    """Nearly right bodies: a piece replaced, taken out or doubled."""
    at = data.draw(st.integers(0, len(BODY)))
    until = data.draw(st.integers(at, min(len(BODY), at + 12)))
    piece = data.draw(st.one_of(st.binary(max_size=6), st.just(BODY[at:until] * 2)))
    try:
        WIRE.feeds(WIRE.rows(BODY[:at] + piece + BODY[until:]))
    except Refused as refused:
        problem = refused.problem
        json.loads(problem.body())


def test_a_value_is_repeated_short_and_as_json_whatever_it_is():
    long = [float("nan"), float("inf"), 10**400, "x" * 10_000, ["x"] * 10_000, {"a": 1}, b"x" * 999]
    for value in [None, True, 1, 1.5, "x", *long]:
        assert len(json.dumps(shown(value), allow_nan=False)) < 100


# Tables.


def table(**columns: Any) -> pa.Table:
    base = {
        "at": pa.array([1714555800], pa.timestamp("s")), "price": pa.array([5.0]),
        "weight": pa.array([1.5]), "items": pa.array([3]), "gift": pa.array([True]),
        "shop": pa.array(["north"]), "note": pa.array(["x"]), "id": pa.array([7]),
    }  # fmt: skip
    return pa.table(base | columns)


RIGHT = WIRE.feeds(WIRE.rows(BODY))


@pytest.mark.parametrize("media", ["arrow", "parquet"])
@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"at": pa.array([1714555800 * 10**9 + 999_999_999], pa.timestamp("ns"))},
        {"at": pa.array([1714555800 * 10**3], pa.timestamp("ms"))},
        {"price": pa.array([5], pa.uint8()), "weight": pa.array([1.5], pa.float16())},
        {"price": pa.array([5.0], pa.float32()), "id": pa.array([7], pa.uint64())},
        {"items": pa.array([3.0]), "id": pa.array([7.0])},
        {"shop": pa.array(["north"], pa.large_string()), "note": pa.array(["x"], pa.string_view())},
        {"shop": pa.array(["north"]).dictionary_encode()},
        {"shop": pa.DictionaryArray.from_arrays(pa.array([1], pa.uint64()), ["unused", "north"])},
    ],
    ids=named,
)
def test_any_width_and_resolution_gives_the_same_inputs(columns, media):
    if media == "parquet" and pa.types.is_timestamp(columns.get("at", pa.nulls(1)).type):
        columns = columns | {"at": columns["at"].cast("timestamp[us]", safe=False)}
    made = table(**columns)
    read = WIRE.table(arrow_bytes(made) if media == "arrow" else parquet_bytes(made), media)
    feeds = WIRE.table_feeds(read)
    assert {n: v.tolist() for n, v in feeds.items()} == {n: v.tolist() for n, v in RIGHT.items()}
    assert {n: v.dtype for n, v in feeds.items()} == {n: v.dtype for n, v in RIGHT.items()}


@pytest.mark.parametrize(
    "columns",
    [
        {"at": pa.array([1714555800], pa.timestamp("s", "UTC"))},
        {"at": pa.array(["2024-05-01T09:30:00"])},
        {"at": pa.array([1714555800])},
        {"at": pa.array([19844], pa.date32())},
        {"price": pa.array([decimal.Decimal("5.0")])},
        {"price": pa.array(["5.0"])},
        {"price": pa.array([True])},
        {"price": pa.array([5.0]).dictionary_encode()},
        {"items": pa.array([True])},
        {"gift": pa.array([1])},
        {"shop": pa.array([b"north"])},
        {"shop": pa.array([1]).dictionary_encode()},
        {"shop": pa.array([["north"]])},
        {"note": pa.array([{"a": "x"}])},
        {"note": pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array(["x"]))},
        {"colour": pa.array(["red"])},
        {"late": pa.array([1])},
    ],
    ids=named,
)
def test_a_column_of_another_type_or_name_is_told(columns):
    problem = refusal(arrow_bytes(table(**columns)), "arrow")
    assert problem.status == 422
    (mistake,) = problem.errors
    (name,) = columns
    assert name in mistake.message


@pytest.mark.parametrize(
    ("columns", "fields"),
    [
        ({"price": pa.array([float("nan")])}, ["price"]),
        ({"price": pa.array([float("inf")])}, ["price"]),
        ({"price": pa.array([10.5])}, ["price"]),
        ({"price": pa.nulls(1)}, ["price"]),
        ({"price": pa.array([None], pa.float64())}, ["price"]),
        ({"weight": pa.array([1e39])}, ["weight"]),
        ({"weight": pa.array([5.5])}, ["weight"]),
        ({"items": pa.array([2.5])}, ["items"]),
        ({"items": pa.array([0], pa.uint8())}, ["items"]),
        ({"items": pa.array([2**53 + 1])}, ["items"]),
        ({"id": pa.array([2**63], pa.uint64())}, ["id"]),
        ({"id": pa.array([2.0**63])}, ["id"]),
        ({"gift": pa.nulls(1)}, ["gift"]),
        ({"shop": pa.array(["west"])}, ["shop"]),
        ({"shop": pa.array(["x" * 5000]).dictionary_encode()}, ["shop"]),
        ({"note": pa.array(["x" * 1001])}, ["note"]),
        ({"note": pa.nulls(1)}, ["note"]),
        ({"note": pa.DictionaryArray.from_arrays([0], pa.array([None], pa.string()))}, ["note"]),
        ({"at": pa.nulls(1)}, ["at"]),
        ({"at": pa.array([2**62], pa.timestamp("s"))}, ["at"]),
        ({"at": pa.array([-(2**62)], pa.timestamp("ms"))}, ["at"]),
        ({"at": pa.array([7258118400], pa.timestamp("s"))}, ["at"]),
        ({"price": pa.array([-1.0]), "shop": pa.array(["west"])}, ["price", "shop"]),
    ],
    ids=named,
)
def test_a_wrong_cell_is_told_by_row_column_and_value(columns, fields):
    problem = refusal(arrow_bytes(table(**columns)), "arrow")
    assert [m.field for m in problem.errors] == [f"rows[0].{name}" for name in fields]


def test_gaps_are_read_however_they_are_written():
    level = pa.DictionaryArray.from_arrays([1], pa.array(["north", None]))
    for gap in (pa.nulls(1), pa.array([None], pa.string()), level, pa.nulls(1).dictionary_encode()):
        feeds = WIRE.table_feeds(WIRE.table(arrow_bytes(table(shop=gap)), "arrow"))
        assert feeds["shop"].tolist() == [""]
    feeds = WIRE.table_feeds(WIRE.table(arrow_bytes(table(weight=pa.nulls(1))), "arrow"))
    assert np.isnan(feeds["weight"]).tolist() == [True]


def test_columns_are_taken_in_any_order_and_batches_are_joined():
    names = table().schema.names[::-1]
    many = pa.concat_tables([table(id=pa.array([n])).select(names) for n in range(4)])
    read = WIRE.table(arrow_bytes(many), "arrow")
    assert read.column("id").to_pylist() == [0, 1, 2, 3]
    assert read.schema.names == list(WIRE.fields)
    coded = [table(shop=pa.array([s]).dictionary_encode()) for s in ("north", "south")]
    options = pa.ipc.IpcWriteOptions(unify_dictionaries=False, emit_dictionary_deltas=False)
    joined = WIRE.table(arrow_bytes(pa.concat_tables(coded), options=options), "arrow")
    assert WIRE.table_feeds(joined)["shop"].tolist() == ["north", "south"]


def test_a_missing_a_doubled_and_an_extra_column_are_told():
    made = table().drop_columns(["price", "gift"])
    made = made.append_column("shop", pa.array(["north"])).append_column("f9", pa.array([1]))
    told = {m.field: m.message for m in refusal(arrow_bytes(made), "arrow").errors}
    assert "missing" in told["price"]
    assert "missing" in told["gift"]
    assert len(refusal(arrow_bytes(made), "arrow").errors) == 4


@pytest.mark.parametrize("media", ["arrow", "parquet"])
@pytest.mark.parametrize("rows", [0, 11, 100_000])
def test_no_rows_and_too_many_are_told(rows, media):
    made = pa.concat_tables([table()] * rows) if rows else table().slice(0, 0)
    made = made.combine_chunks()
    content = arrow_bytes(made) if media == "arrow" else parquet_bytes(made)
    assert refusal(content, media).errors[0].allowed == "1 to 10 rows"


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_stream_is_read_and_one_that_unfolds_too_far_is_not(compression, monkeypatch):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    assert WIRE.table(arrow_bytes(table(), options=options), "arrow").num_rows == 1
    unused = pa.array(["north", "x" * 2_000_000])
    bomb = table(shop=pa.DictionaryArray.from_arrays([0], unused))
    content = arrow_bytes(bomb, options=options)
    assert len(content) < 50_000
    assert WIRE.table(content, "arrow").num_rows == 1
    # What it would unfold to stands before each buffer. Were it read, this one would be unreadable.
    size = struct.pack("<q", 2_000_005)
    assert size in content
    before, after = content.rsplit(size, 1)
    for lie in (2**40, -7):
        lying = before + struct.pack("<q", lie) + after
        assert refusal(lying, "arrow").kind == "too-large"
    monkeypatch.setattr(bulk, "UNFOLDED", 1_000_000)
    assert refusal(content, "arrow").kind == "too-large"


def test_one_long_text_in_every_row_of_a_file_is_not_multiplied():
    wide = Wire(CONTRACT, max_rows=10_000)
    long = pa.DictionaryArray.from_arrays(np.zeros(10_000, np.int32), ["y" * 1_000_000])
    made = pa.table(
        {n: pa.repeat(table().column(n)[0], 10_000) for n in table().schema.names} | {"note": long}
    )
    before = pa.total_allocated_bytes()
    for content, media in ((arrow_bytes(made), "arrow"), (parquet_bytes(made), "parquet")):
        problem = refusal(content, media, wide)
        assert problem.errors[0].field == "rows[0].note"
        assert problem.more == 10_000 - MOST
    assert pa.default_memory_pool().max_memory() < before + 500_000_000


def test_a_file_that_unfolds_too_far_is_refused_by_its_footer(monkeypatch):
    monkeypatch.setattr(bulk, "UNFOLDED", 100)
    assert refusal(parquet_bytes(table()), "parquet").kind == "too-large"


@pytest.mark.parametrize("media", ["arrow", "parquet"])
def test_what_is_no_table_is_unreadable(media):
    whole = arrow_bytes(table()) if media == "arrow" else parquet_bytes(table())
    feather = pa.BufferOutputStream()
    with pa.ipc.new_file(feather, table().schema) as file:
        file.write_table(table())
    other = parquet_bytes(table()) if media == "arrow" else arrow_bytes(table())
    odd = [b"", b"\x00", b"PAR1", b"PAR1PAR1", b"\xff" * 100, BODY, other]
    odd += [bytes(feather.getvalue()), whole[: len(whole) // 2], whole[10:], whole[:-20][:-200]]
    for content in odd:
        assert refusal(content, media).kind == "unreadable"


@pytest.mark.parametrize("media", ["arrow", "parquet"])
@settings(max_examples=200)
@given(data=st.data())
def test_no_bytes_of_a_table_do_more_than_be_refused(media, data):
    options = pa.ipc.IpcWriteOptions(compression=data.draw(st.sampled_from([None, "zstd"])))
    made = table(shop=pa.array(["north"]).dictionary_encode())
    whole = arrow_bytes(made, options=options) if media == "arrow" else parquet_bytes(made)
    at = data.draw(st.integers(0, len(whole)))
    until = data.draw(st.integers(at, min(len(whole), at + 8)))
    content = whole[:at] + data.draw(st.binary(max_size=8)) + whole[until:]
    try:
        WIRE.table_feeds(WIRE.table(content, media))
    except Refused as refused:
        problem = refused.problem
        json.loads(problem.body())


def test_memory_that_ran_out_is_not_told_as_the_askers_mistake(monkeypatch):
    def full(*_: Any) -> Any:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(bulk, "_arrow", full)
    with pytest.raises(MemoryError):
        WIRE.table(arrow_bytes(table()), "arrow")


# Keys and examples.


def names(asked: Asked) -> list[str]:
    return hidden.row_names(bodies.read([asked], CONTRACT, hashed=False), CONTRACT)


def test_a_row_without_its_key_has_no_name():
    two = json.dumps({"rows": [ROW, {k: v for k, v in ROW.items() if k != "id"}]}).encode()
    landed = row_keys(pd.DataFrame({"id": [7]}), CONTRACT)
    assert names(Asked("json", two, 2)) == [f"{landed[0]:016x}", ""]
    assert names(Asked("arrow", arrow_bytes(table().drop_columns(["id"])), 1)) == [""]


def test_the_example_is_the_first_row_that_is_taken():
    frame = pd.DataFrame([ROW | {"at": pd.Timestamp(ROW["at"])}])
    frame = pd.concat([frame.assign(price=99.0), frame.assign(shop=None), frame], ignore_index=True)
    example = WIRE.example(frame.assign(expected_probability=0.5))
    assert json.loads(json.dumps(example)) == ROW | {"shop": None}
    with pytest.raises(Refused, match="price"):
        WIRE.example(frame.head(1))
