"""What the sources of pictures share: a batch is time, key, picture and class, as the contract names
and orders them.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipelines.contract import Contract
from pipelines.errors import ParamsError


class Columns:
    """The contract's names of what such a source can give.

    Further columns of the contract are missing from its batches, and validation says so.
    """

    def __init__(self, contract: Contract, kind: str) -> None:
        if len(contract.images) != 1 or len(contract.key) != 1 or not contract.classes:
            raise ParamsError(
                f"contracts/{contract.task}.yaml: source kind {kind} gives one picture, its name and "
                f"its class a row, and the contract has {len(contract.images)} columns of type image, "
                f"key {list(contract.key)} and a label of type {contract.columns[contract.label].type}; "
                "allowed: one image, a key of one column, a label of type category. "
                f"Mend it with: edit contracts/{contract.task}.yaml"
            )
        self._contract = contract

    def table(self, times: Any, names: Any, pictures: list[bytes], classes: Any) -> pd.DataFrame:
        """Sorted by time, then name."""
        known = self._contract
        found = {
            known.time: pd.Series(times).astype("datetime64[s]"),
            known.key[0]: pd.Series(names, dtype=object),
            known.images[0]: pd.Series(pictures, dtype=object),
            known.label: pd.Series(classes, dtype=object),
        }
        table = pd.DataFrame({name: found[name] for name in known.columns if name in found})
        order = [known.time, known.key[0]]
        return table.sort_values(order, kind="stable", ignore_index=True)
