"""The parts of a table that are judged one by one, and the names of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.contract import Contract
from pipelines.errors import ParamsError

if TYPE_CHECKING:
    import pandas as pd


def slices_of(
    table: pd.DataFrame, contract: Contract, columns: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Slice column -> (N,) text; a timestamp column is cut into hours of the day, missing is "none"."""
    found = {}
    for name in columns:
        if name not in contract.columns:
            raise ParamsError(
                f"params.yaml: tasks.{contract.task}.evaluate.slices names {name!r}, which the "
                f"contract does not describe; described are: {', '.join(contract.columns)}. "
                "Mend it with: edit params.yaml"
            )
        values = table[name]
        if contract.columns[name].type == "timestamp":
            found[name] = values.dt.strftime("%H").fillna("none").to_numpy(dtype=str)
        else:
            found[name] = values.astype(object).where(values.notna(), "none").to_numpy().astype(str)
    return found


def row_keys(table: pd.DataFrame, contract: Contract) -> np.ndarray:
    """(N,) uint64 that name the rows: the same row has the same name in every process and version."""
    import pandas as pd

    key = table[list(contract.key)].copy()
    for name in contract.key:
        if contract.columns[name].type == "timestamp":
            key[name] = key[name].astype("datetime64[s]").astype("int64")
    return pd.util.hash_pandas_object(key, index=False).to_numpy()
