"""What a table's columns may be: its time, its key, its label. Used when a person named none."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd

from pipelines.errors import ParamsError
from pipelines.stored import times_from_text, type_of

KEY_COLUMNS = 3
"""Most columns tried together with the time when candidates for a key are looked for."""
CANDIDATES = 5
"""Most candidates for a key that are shown."""


def guess_time(table: pd.DataFrame) -> str | None:
    """The first column of times; else the first of text that reads as times."""
    times = [n for n in table.columns if type_of(table[n]) == "timestamp"]
    texts = (n for n in table.columns if type_of(times_from_text(table[n])) == "timestamp")
    return times[0] if times else next(texts, None)


def no_time(table: pd.DataFrame) -> str:
    """What to say where `guess_time` finds none."""
    return (
        "which column is the time? None holds times, or text like 2013-04-01T09:30:00 without "
        f"a zone; the columns are: {', '.join(map(str, table.columns))}. Name it with: --time"
    )


def ask_for_what_is_missing(
    task: str, table: pd.DataFrame, time: str | None, key: Sequence[str] | None, label: str | None
) -> None:
    asked = []
    if time is None:
        asked.append(no_time(table))
    if label is None:
        found = [n for n in table.columns if _is_label(table[n])]
        asked.append(
            "which column is the label? Those that hold 0 and 1 only are: "
            f"{', '.join(found) or 'none; make one'}. Name it with: --label"
        )
    if key is None and time is not None:
        found = [" + ".join(names) for names in _keys(table, time, label)]
        asked.append(
            "which columns together name one row and never repeat? Candidates are: "
            f"{'; '.join(found) or 'none found; add a column that numbers the rows'}. "
            "Name them with: --key"
        )
    if asked:
        raise ParamsError("\n".join(f"contract propose {task}: {line}" for line in asked))


def _is_label(values: pd.Series) -> bool:
    return type_of(values) in ("integer", "boolean") and set(values.unique()) == {0, 1}


def _keys(table: pd.DataFrame, time: str, label: str | None) -> list[tuple[str, ...]]:
    """The shortest keys: one column alone, else the time with up to KEY_COLUMNS others."""
    usable = [
        n
        for n in table.columns
        if n != label and type_of(table[n]) != "number" and not table[n].isna().any()
    ]
    alone: list[tuple[str, ...]] = [(n,) for n in usable if not table[n].duplicated().any()]
    others = [n for n in usable if n != time and not _is_label(table[n])]
    for size in range(1, KEY_COLUMNS + 1):
        if alone:
            break
        for names in itertools.combinations(others, size):
            if not table.duplicated([time, *names]).any():
                alone.append((time, *names))
    return alone[:CANDIDATES]
