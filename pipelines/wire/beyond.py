"""Rows that the contract allows and the model cannot compute with: numbers near the end of float32.

A column without limits takes any number that float32 holds. Scaled, the largest of them are infinite,
and infinity less infinity is no number, nor is any part of it. The row is at fault, not the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.wire import problem
from pipelines.wire.problem import MOST, Refused

LARGE = 1e20
"""No model that is sound overflows below: it would have to multiply a number by 3e18."""
_ALLOWED = f"a number within ±{LARGE:g}: to this row, the model's answer is no number"


def refusal(
    numbers: Sequence[str],
    feeds: Mapping[str, np.ndarray],
    probability: np.ndarray,
    first: int = 0,
) -> Refused | None:
    """Names what is beyond LARGE in the rows whose answer is NaN.

    probability: (N,), or (N, K) of each class; first: place of the first of them in what was asked.
    None where the model is at fault: it says NaN of a row without such a value, or something else that
    is no probability.
    """
    lacking = np.isnan(probability.reshape(len(probability), -1)).any(axis=1)
    rest = probability[~lacking]
    if not (numbers and lacking.any() and (rest >= 0).all() and (rest <= 1).all()):
        return None
    large = np.stack([np.abs(feeds[name]) > LARGE for name in numbers], axis=1)
    if not large[lacking].any(axis=1).all():
        return None
    cells = np.argwhere(large & lacking[:, np.newaxis])
    told = [
        problem.wrong(
            f"rows[{first + row}].{numbers[at]}", _shown(feeds[numbers[at]][row]), _ALLOWED
        )
        for row, at in cells[:MOST].tolist()
    ]
    return problem.refused_rows(told, len(cells) - len(told), "unanswerable-rows")


def _shown(number: np.float32) -> float:
    """As it was sent, as far as float32 can tell."""
    return float(f"{number:.6g}")
