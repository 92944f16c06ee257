"""Labels that have arrived, joined to the answers that were given."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pipelines import labelled, store
from pipelines.contract import Contract
from pipelines.paths import Paths
from pipelines.served import answers
from pipelines.slices import row_keys

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def run(name: str, contract: Contract, at: Paths, period: str) -> int:
    """Label the answers given to the rows of `period`; returns how many have one, 0 without any.

    Joined by row key: any version's answer finds its label, that to the batch as well as those over
    HTTP whose request gave the row's key. A label that came over HTTP before is not overwritten.
    """
    import pandas as pd

    if not (at.batch(period).is_file() or at.predictions(period).is_file()):
        log.info("labels %s %s: no predictions to label", name, period)
        return 0
    batch = store.read_table(
        at.batch(period),
        f"perennial ingest {name} --batch {period}",
        [*contract.key, *{contract.time, contract.label} - set(contract.key)],
    )
    known = pd.DataFrame({"label": contract.codes(batch[contract.label])})
    known.insert(0, "row", [f"{k:016x}" for k in row_keys(batch, contract).tolist()])
    return _of_batch(name, at, period, known) + _of_served(contract, at, batch, known)


def _of_batch(name: str, at: Paths, period: str, known: pd.DataFrame) -> int:
    if at.labels(period).is_file():
        return store.rows_in(at.labels(period))
    if not at.predictions(period).is_file():
        return 0
    given = store.read_table(at.predictions(period), "", ["id"])

    row = given["id"].str.rsplit("-", n=1).str[-1]
    found = given.assign(row=row).merge(known, on="row")[["id", "label"]]

    store.write_table(at.labels(period), found)
    log.info("labels %s %s: %d of %d answers labelled", name, period, len(found), len(given))
    return len(found)


def _of_served(contract: Contract, at: Paths, batch: pd.DataFrame, known: pd.DataFrame) -> int:
    import pandas as pd

    first, last = batch[contract.time].min(), batch[contract.time].max()
    if pd.isna(first):
        return 0
    given = answers.read(
        at,
        contract,
        answers.Wanted(
            since=first.to_pydatetime(),
            until=(last + pd.Timedelta(seconds=1)).to_pydatetime(),
            columns=("id", "row"),
        ),
    )
    found = given.merge(known, on="row")
    pairs = list(zip(found["id"], found["label"].astype(int), strict=True))
    if pairs:
        counted = labelled.put(at.served_labels, pairs, lambda ids: ids)
        log.info(
            "labels %s: %d of %d answers over HTTP have a label, %d of them new",
            contract.task, len(found), len(given), counted.accepted,
        )  # fmt: skip
        if counted.conflicting:
            log.warning(
                "labels %s: %d answers got another label over HTTP than the batch says; it stays",
                contract.task, counted.conflicting,
            )  # fmt: skip
    return len(found)
