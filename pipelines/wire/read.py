"""Requests by contract: bytes -> rows -> the graph's inputs. One `Wire` a task and process."""

from __future__ import annotations

import base64
import datetime as dt
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec.structs import astuple

from pipelines.contract import Contract
from pipelines.wire import beyond, bulk, columns, explain, made_up, outside
from pipelines.wire.bulk import Media
from pipelines.wire.problem import Refused
from pipelines.wire.schema import Row, Shape

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Wire:
    """fields: all that a row may hold: the contract's inputs, then key columns that are none, in
    the order of a Row's attributes. watched: inputs that `out_of_contract` looks at."""

    def __init__(self, contract: Contract, max_rows: int, bounded: bool = True) -> None:
        """bounded: as of a Shape."""
        self.contract = contract
        self.shape = Shape(contract, max_rows, bounded)
        self.fields = tuple(self.shape.by_name)
        # The contract works these out anew each time.
        self._time, self._inputs = contract.time, contract.inputs
        self._numbers, self._categories = contract.numbers, contract.categories
        self._images = contract.images
        self.watched = tuple(n for n in contract.inputs if n not in contract.images)
        self._outside = outside.rules(contract, self.shape.fields)

    def rows(self, body: bytes) -> list[Row]:
        """1 to max_rows rows of a JSON request. A name given twice counts as given last.

        Raises Refused: unreadable, too-large, or invalid-rows with every mistake.
        """
        try:
            rows: list[Row] = self.shape.decode(body).rows
        except UNREADABLE:
            raise explain.refusal(self.shape, body) from None
        if self._images:
            self.shape.fit(len(rows))
        if not self.shape.consistent(rows):
            raise explain.refusal(self.shape, body)
        return rows

    def feeds(self, rows: list[Row]) -> dict[str, np.ndarray]:
        """Each input's (N,) array, of rows of one request or of many; pictures (N, H, W, C)."""
        # All columns are turned at once; the numbers share one matrix, the texts another.
        turned = list(zip(*map(astuple, rows), strict=True))
        split = 1 + len(self._numbers)
        end = split + len(self._categories)
        feeds = {self._time: _seconds(turned[0])}
        if self._numbers:
            matrix = np.array(turned[1:split], dtype=np.float32)
            feeds.update(zip(self._numbers, matrix, strict=True))
        if self._categories:
            texts = [
                [text or "" for text in column] if None in column else column
                for column in turned[split:end]
            ]
            feeds.update(zip(self._categories, np.array(texts, dtype=object), strict=True))
        for name, pixels in zip(self._images, turned[end : end + len(self._images)], strict=True):
            feeds[name] = np.stack(pixels)
        return feeds

    def table(self, body: bytes, media: Media) -> pa.Table:
        """1 to max_rows rows of a bulk request; media: "arrow" or "parquet".

        Columns in the order of `fields`, key columns that were not given left out; times as
        timestamp[us], categories as dictionary<int32, string>, pictures' files as binary, else
        int64, float64, bool.
        Raises Refused: unreadable, too-large, or invalid-rows naming columns or rows.
        """
        return columns.conform(bulk.read(body, media, self.shape), self.shape)

    def table_feeds(self, table: pa.Table) -> dict[str, np.ndarray]:
        """table: from `table`."""
        by_name = self.shape.by_name
        return {n: columns.feed(table.column(n), by_name[n]) for n in self._inputs}

    def out_of_contract(self, feeds: dict[str, np.ndarray]) -> dict[str, int]:
        """Column -> rows outside limits that the contract lets a share of rows, or warned rows,
        break; only columns with such rows. Of the inputs: keys that are none are not looked at."""
        return outside.counts(self._outside, feeds)

    def beyond(
        self, feeds: dict[str, np.ndarray], probability: np.ndarray, first: int = 0
    ) -> Refused | None:
        """What of the rows the model cannot compute with; None where an answer that is no probability
        is its own fault. probability: (N,), or (N, K) of each class; first: the first row's place in
        what was asked."""
        return beyond.refusal(self._numbers, feeds, probability, first)

    def example(self, artifact_examples: pd.DataFrame) -> dict[str, Any]:
        """The first of the artifact's example rows that this wire takes, as a JSON row.

        It tells nothing of a person: personal fields that may be left out are, the others are made up.
        Raises Refused naming what is wrong with the first one, where none is taken.
        """
        refusal: Refused | None = None
        there = [field for field in self.shape.fields if field.name in artifact_examples.columns]
        real = [field.name for field in there if not field.column.personal]
        rest = {f.name: made_up.value(f) for f in there if f.column.personal and f.required}
        for _, row in artifact_examples[real].astype(object).iterrows():
            told = {name: _jsonable(row[name]) for name in real} | rest
            asked = {name: told[name] for name in self.fields if name in told}
            try:
                self.rows(msgspec.json.encode({"rows": [asked]}))
            except Refused as error:
                refusal = refusal or error
            else:
                return asked
        raise refusal or ValueError("the artifact has no example rows")


def _seconds(times: tuple[dt.datetime, ...]) -> np.ndarray:
    # Six times as fast as numpy's own reading of datetimes; exact, since microseconds of 500 years
    # fit a float.
    since = [(time - _EPOCH).total_seconds() for time in times]
    seconds: np.ndarray = np.floor(np.array(since)).astype(np.int64)
    return seconds


_EPOCH = dt.datetime(1970, 1, 1)


def _jsonable(value: Any) -> Any:
    """A cell of a table of objects; NaN, NaT, NA and None are null."""
    if value is None or value != value or str(value) == "<NA>":
        return None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value
