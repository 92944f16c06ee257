"""Handwritten digits: the 1,797 pictures that come with scikit-learn, as weekly batches.

The data set (Alpaydin and Kaynak 1998, doi:10.24432/C50P49, CC BY 4.0; the test part of it) has
8 x 8 pixels of 0 to 16 in its own order, and that order is the order of the filled-in forms: each
form asks for the same 130 digits, so the labels show where a form begins, and a few digits of some
forms are lost. (There are 14, and the data set's description speaks of 13 people: one may have filled
in two.) One form is one batch: a week is one writer's hand, and the next week is another's.
So what a monitor sees here and a retraining gains is real: hands differ, and a model that has seen
more hands reads the next one better. Shuffled batches would have nothing to see.

Made up are the weeks and the times within them: no one recorded when a form was filled in.
"""

from __future__ import annotations

import functools
import gzip
from importlib import metadata

import numpy as np
import pandas as pd

from pipelines import images
from pipelines.errors import ParamsError
from pipelines.periods import shift
from pipelines.sources.dealing import dealt, spread

FORMS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)
"""First row of each form."""
FIRST = "2024-W01"
LARGEST = 16
"""Value of a pixel that is all ink."""


class Digits:
    """14 batches of 122 to 130 rows, `2024-W01` to `2024-W14`; every class in each."""

    def __init__(self, period: str) -> None:
        if period != "week":
            raise ParamsError(
                f"params.yaml: source kind digits has batches of a week, and period is {period}; "
                "allowed: week. Mend it with: edit params.yaml"
            )

    def periods(self) -> tuple[str, ...]:
        return tuple(shift(FIRST, "week", number) for number in range(len(FORMS)))

    def read(self, period: str) -> pd.DataFrame:
        number = self.periods().index(period)
        pixels_NHW, labels = _all()
        rows = np.arange(FORMS[number], (*FORMS, len(labels))[number + 1])
        names = [f"digit-{row:04d}" for row in rows]
        order = dealt(names, labels[rows])
        return pd.DataFrame(
            {
                "time": spread(len(rows), period, "week"),
                "id": np.array(names, dtype=object)[order],
                "image": [images.png(pixels) for pixels in pixels_NHW[rows[order]]],
                "digit": labels[rows[order]],
            }
        )


@functools.cache
def _all() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 8, 8) uint8, 0 = paper and 255 = ink; labels (N,) text."""
    # Read as a file: scikit-learn's own loader does the same, but takes seconds to import.
    path = metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    with gzip.open(str(path), "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",")
    pixels_NHW = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / LARGEST)).astype(np.uint8)
    return pixels_NHW, table[:, -1].astype(int).astype(str).astype(object)
