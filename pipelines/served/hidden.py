"""Personal values are hashed before they reach the log, and rows are named by their key's hash."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pipelines.contract import Contract
from pipelines.journal import Hidden
from pipelines.served import bodies
from pipelines.slices import row_keys

if TYPE_CHECKING:
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


def hider(contract: Contract) -> Callable[[bytes, str, int], Hidden] | None:
    """Hashes a body's personal columns as a scored batch's are; None where the contract has none."""
    personal = [name for name in bodies.asked_columns(contract) if contract.columns[name].personal]
    if not personal:
        return None
    import pandas as pd
    import pyarrow as pa

    def hide(body: bytes, media: str, rows: int) -> Hidden:
        asked = bodies.read([bodies.Asked(media, body, rows)], contract, hashed=False)
        keys = row_names(asked, contract) if set(personal) & set(contract.key) else None
        for name in personal:
            at = asked.schema.get_field_index(bodies.stored(name))
            # Else a gap elsewhere makes floats of whole numbers, and 7 is hashed as 7.0.
            values = asked.column(at).to_pandas(integer_object_nulls=True)
            text = values.astype(str).to_numpy()
            asked = asked.set_column(at, bodies.stored(name), pa.array(pd.util.hash_array(text)))
        asked = asked.rename_columns(list(bodies.asked_columns(contract)))
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, asked.schema) as stream:
            stream.write_table(asked)
        return Hidden(out.getvalue().to_pybytes(), "arrow", keys)

    return hide
