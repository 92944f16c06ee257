"""Labels that have arrived, joined to the answers that were given."""

from __future__ import annotations

import logging

from pipelines import store
from pipelines.contract import Contract
from pipelines.paths import Paths
from pipelines.slices import row_keys

log = logging.getLogger(__name__)


def run(name: str, contract: Contract, at: Paths, period: str) -> int:
    """Label the answers given to `period`; returns how many got one, 0 when none were given.

    Joined by row key, through the prediction's id: any version's answer finds its label.
    """
    import pandas as pd

    if at.labels(period).is_file():
        return len(store.read_table(at.labels(period), "", columns=["id"]))
    if not at.predictions(period).is_file():
        log.info("labels %s %s: no predictions to label", name, period)
        return 0
    columns = [*contract.key, contract.label]
    batch = store.read_table(at.batch(period), f"perennial ingest {name} --batch {period}", columns)
    answers = store.read_table(
        at.predictions(period), f"perennial score {name} --batch {period}", ["id"]
    )

    known = pd.DataFrame(
        {
            "row": [f"{k:016x}" for k in row_keys(batch, contract).tolist()],
            "label": batch[contract.label],
        }
    )
    row = answers["id"].str.rsplit("-", n=1).str[-1]
    labelled = answers.assign(row=row).merge(known, on="row")[["id", "label"]]

    store.write_table(at.labels(period), labelled)
    log.info("labels %s %s: %d of %d answers labelled", name, period, len(labelled), len(answers))
    return len(labelled)
