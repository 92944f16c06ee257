"""Personal values are hashed before they reach the log, and rows are named by their key's hash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.contract import Contract
from pipelines.journal import Asked, Hidden, Hide
from pipelines.served import bodies
from pipelines.slices import row_keys

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def row_names(asked: pa.Table, contract: Contract) -> list[str]:
    """(N,) the row's key as 16 hex digits; empty where a part of the key was not given."""
    import pyarrow.compute as pc

    keys = [bodies.stored(name) for name in contract.key]
    there = pc.is_valid(asked[keys[0]])
    for name in keys[1:]:
        there = pc.and_(there, pc.is_valid(asked[name]))
    whole = asked.select(keys).filter(there).to_pandas()
    whole.columns = list(contract.key)
    found = np.full(asked.num_rows, "", dtype=object)
    if len(whole):
        found[there.to_numpy()] = [f"{key:016x}" for key in row_keys(whole, contract).tolist()]
    return list(found)


def hashed(values: pd.Series) -> np.ndarray:
    """(N,) uint64: each value's hash, whatever stands beside it."""
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        # All together, pandas leaves out the time of day where each of them is midnight.
        found, unique = pd.factorize(values, use_na_sentinel=False)
        told = [pd.Series([one], dtype=values.dtype).astype(str).iloc[0] for one in unique]
        text = np.array(told, dtype=object)[found] if told else np.empty(0, dtype=object)
    else:
        text = values.astype(str).to_numpy()
    return pd.util.hash_array(text)


def hider(contract: Contract) -> Hide | None:
    """Hashes bodies' personal columns as a scored batch's are; None where the contract has none."""
    personal = [name for name in bodies.asked_columns(contract) if contract.columns[name].personal]
    if not personal:
        return None
    import pyarrow as pa

    def hide(several: Sequence[Asked]) -> list[Hidden]:
        asked = bodies.read(several, contract, hashed=False)
        keyed = bool(set(personal) & set(contract.key))
        keys = row_names(asked, contract) if keyed else []
        for name in personal:
            at = asked.schema.get_field_index(bodies.stored(name))
            # Else a gap elsewhere makes floats of whole numbers, and 7 is hashed as 7.0.
            values = asked.column(at).to_pandas(integer_object_nulls=True)
            asked = asked.set_column(at, bodies.stored(name), pa.array(hashed(values)))
        asked = asked.rename_columns(list(bodies.asked_columns(contract))).combine_chunks()
        made, first = [], 0
        for one in several:
            out = pa.BufferOutputStream()
            with pa.ipc.new_stream(out, asked.schema) as stream:
                stream.write_table(asked.slice(first, one.rows))
            names = keys[first : first + one.rows] if keyed else None
            made.append(Hidden(out.getvalue().to_pybytes(), "arrow", names))
            first += one.rows
        return made

    return hide
