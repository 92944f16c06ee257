"""What a column of a few batches suggests as its rules, with a margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types as kinds

from pipelines.errors import ParamsError
from pipelines.stored import type_of

LEVELS = 200
"""Most different texts that are listed as values; a column with more is not listed."""
RANGE = 0.25
"""Margin of a range, as a share of its span."""
OUTSIDE = 0.001
"""Share of a number's rows that may lie beyond its range."""
MANY = 1000
"""Rows from which integers that never repeat are taken for names and not for amounts."""
FEW = 10
"""Up to this many texts a column is an enumeration, where a new one is a mistake."""


def column(
    task: str, name: str, batches: Sequence[pd.DataFrame], key: Sequence[str], label: str
) -> dict[str, Any]:
    """The rules of one column, as the contract file spells them."""
    parts = [rows[name] for rows in batches]
    whole = pd.concat(parts, ignore_index=True)
    kind = type_of(whole)
    if kind is None:
        raise ParamsError(
            f"contract propose {task}: column {name} holds {kinds.infer_dtype(whole)} "
            f"({whole.dtype}); a contract knows timestamps without a zone, integers, numbers, text "
            f"and booleans. Bring it to one of these, then run: perennial contract propose {task}"
        )
    worst = max(float(part.isna().mean()) for part in parts)
    gaps = {"nulls": round(min(1.0, 1.5 * worst + 0.02), 3)} if worst else {}
    present = [part.dropna() for part in parts]
    if worst and all(part.empty for part in present):
        return {"type": kind, "description": "was always empty", "feature": False, **gaps}
    if name == label:
        return {"type": kind, "description": "what is predicted", **_label(present, kind)}
    fewest = min(part.nunique() for part in present)
    variety = {"distinct": max(2, fewest // 2 if kind == "category" else 2)} if fewest > 1 else {}
    if kind == "integer" and (name in key or _numbers_the_rows(whole)):
        # Numbers given out one after another know no range, and no model should read them.
        return {"type": kind, "description": "names the row", "feature": False, **gaps}
    rules: dict[str, Any] = {}
    match kind:
        case "integer" | "number":
            rules = _numbers([p.to_numpy(np.float64) for p in present if len(p)], kind)
        case "timestamp":
            rules = _hours(pd.concat(present).dt.hour)
        case "category":
            rules = _values(pd.concat(present))
    return {"type": kind, **gaps, **rules, **variety}


def _numbers_the_rows(values: pd.Series) -> bool:
    return len(values) >= MANY and values.is_unique


def _hours(hours: pd.Series) -> dict[str, Any]:
    first, last = int(hours.min()), int(hours.max())
    return {} if (first, last) == (0, 23) else {"hours": [first, last]}


def _values(texts: pd.Series) -> dict[str, Any]:
    levels = sorted(texts.astype(str).unique())
    if len(levels) <= LEVELS:
        return {"values": levels} | ({"new_values": 0.01} if len(levels) > FEW else {})
    if len(levels) > len(texts) / 2:
        return {"description": "names the row, or nearly", "feature": False}
    return {}


def _numbers(parts: Sequence[np.ndarray], kind: str) -> dict[str, Any]:
    """RANGE beyond what was seen, but no negatives where none were. The mean may leave the batches'
    means by half a standard deviation, or by the distance between them where that is more."""
    low, high = min(float(p.min()) for p in parts), max(float(p.max()) for p in parts)
    margin = RANGE * (high - low) or abs(high) or 1.0
    low, high = low - margin if low < 0 else max(0.0, low - margin), high + margin
    low, high = (math.floor(low), math.ceil(high)) if kind == "integer" else (_down(low), _up(high))
    means = [float(p.mean()) for p in parts]
    slack = max(max(means) - min(means), float(np.concatenate(parts).std()) / 2) or margin
    mean = [max(low, _down(min(means) - slack)), min(high, _up(max(means) + slack))]
    # A long tail goes on where the sample ended; integers are more often codes and counts.
    spare = {} if kind == "integer" else {"outside": OUTSIDE}
    return {"min": low, "max": high, **spare, "mean": mean}


def _label(parts: Sequence[pd.Series], kind: str) -> dict[str, Any]:
    """A batch's share of ones stays between half the lowest and half way from the highest to 1."""
    rates = [float(part.mean()) for part in parts]
    mean = [_down(min(rates) / 2), min(1.0, _up((1 + max(rates)) / 2))]
    rules: dict[str, Any] = {"mean": mean} if kind == "integer" else {}
    return rules | ({"distinct": 2} if all(0 < rate < 1 for rate in rates) else {})


def row_count(counts: Sequence[int]) -> dict[str, Any]:
    """Half to double the median of the batches before it, wider where these batches were."""
    ratios = [n / float(np.median(counts[:i])) for i, n in enumerate(counts) if i]
    low, high = min([1.0, *ratios]), max([1.0, *ratios])
    against = [_down(min(0.5, 0.9 * low)), _up(max(2.0, 1.1 * high))]
    return {"min": max(1, min(counts) // 2), "against_history": against}


def _up(value: float) -> float:
    return -_down(-value)


def _down(value: float) -> float:
    """The next number of three significant digits that is not above."""
    if abs(value) < 1e-12:
        return 0.0 if value >= 0 else -1e-12
    digits = 2 - math.floor(math.log10(abs(value)))
    return round(math.floor(value * 10.0**digits) / 10.0**digits, max(digits, 0))
