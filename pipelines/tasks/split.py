"""A window's rows cut in time, whatever their kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.errors import ParamsError
from pipelines.params import Window


@dataclass(frozen=True)
class Split:
    """Positions in the window's rows: train < validation < test in time, no moment in two parts."""

    train: slice
    validation: slice
    test: slice


def split(time: np.ndarray, last_batch_rows: int, window: Window) -> Split:
    """time (N,) ascending, the last `last_batch_rows` of which are the window's last batch.

    Only the last batch is cut, so the model is fitted on all but its newest rows whatever the
    window's length. A boundary is moved back to the first row of its moment: rows of one moment
    stay together, and every test row is strictly later than all that training saw.
    """
    n = len(time)
    test = n - round(last_batch_rows * window.test)
    validation = n - round(last_batch_rows * (window.test + window.validation))
    test = int(np.searchsorted(time, time[min(test, n - 1)], side="left"))
    validation = int(np.searchsorted(time, time[min(validation, n - 1)], side="left"))
    if not 0 < validation < test < n:
        raise ParamsError(
            f"params.yaml: the window {window.first} to {window.last} has {n} rows, too few or too "
            f"alike in time for validation {window.validation} and test {window.test} of its last "
            f"batch ({last_batch_rows} rows). Widen it with: edit params.yaml"
        )
    return Split(slice(0, validation), slice(validation, test), slice(test, n))
