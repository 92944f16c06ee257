"""Tables as they come back from disk or from bytes."""

from __future__ import annotations

import ast
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from pipelines import store
from tests.conftest import REPOSITORY, shop


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "task=orders" / "2024-01.parquet"
    store.write_table(path, shop(days=3))
    return path


def test_a_file_and_its_bytes_are_what_pandas_reads(written: Path):
    expected = pd.read_parquet(written)
    pd.testing.assert_frame_equal(store.frame(written), expected)
    pd.testing.assert_frame_equal(store.frame(written.read_bytes()), expected)
    some = ["price", "order"]
    pd.testing.assert_frame_equal(store.frame(written, some), expected[some])


def test_a_column_that_is_not_there_and_bytes_that_are_no_table_are_refused(written: Path):
    with pytest.raises(ValueError, match="colour"):
        store.frame(written, ["price", "colour"])
    with pytest.raises(pa.ArrowInvalid):
        store.frame(b"PAR1 and no more")


def test_arrow_holds_no_memory_of_pythons_that_a_thread_could_let_go_of_at_the_end():
    """apache/arrow#34314: seen as exit status -6 of a command whose work was done."""
    content = bytearray(b"some rows")
    reader = store.owned(content)
    content[:] = b"new bytes"
    assert reader.read() == b"some rows"


def test_nothing_reads_tables_by_pandas_which_would_hand_over_a_file_of_pythons():
    """ruff sees `pandas.read_parquet`; this also sees a file of Python's handed to Arrow."""
    found = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in (REPOSITORY / "pipelines").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and "BytesIO" in ast.unparse(node) and "parquet" in ast.unparse(node)
    ]  # fmt: skip
    assert not found
