"""Times for rows that have none: where in its period each row of a batch comes.

Made up, and said so by every source that calls this: nothing may be read from them but the order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd

from pipelines.periods import start_and_end


def spread(rows: int, period: str, length: str) -> np.ndarray:
    """(rows,) datetime64[s], from the period's first moment on, at equal distances."""
    start, end = (np.datetime64(moment, "s") for moment in start_and_end(period, length))
    seconds = (end - start).astype("int64")
    return np.asarray(start + (np.arange(rows) * seconds // max(rows, 1)).astype("timedelta64[s]"))


def dealt(keys: Iterable[str], classes: Iterable[str]) -> np.ndarray:
    """(N,) an order of the rows in which every stretch has all classes, each at its own share.

    A window's validation and test rows are stretches at its end; were rows in the order of their
    folders, those would be of one class. Within that the order is the keys' md5: the same in every
    process, and it tells nothing of a row.
    """
    table = pd.DataFrame({"key": list(keys), "cls": list(classes)})
    table["hashed"] = [hashlib.md5(key.encode()).hexdigest() for key in table["key"]]
    table = table.sort_values("hashed")
    same = table.groupby("cls")["hashed"]
    table["share"] = (same.cumcount() + 0.5) / same.transform("size")
    return table.sort_values(["share", "hashed"]).index.to_numpy()
