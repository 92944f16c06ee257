"""A batch asked of the running service, and its labels told to it: what an application does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pipelines import store
from pipelines.contract import Contract
from pipelines.graph import readable
from pipelines.paths import Paths

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.adapters.service import Service

log = logging.getLogger(__name__)


def run(
    name: str, contract: Contract, at: Paths, period: str, service: Service, version: str
) -> int:
    """Rows asked, once the service answers with `version`. A batch already asked is left as it is.

    The answers are in the service's own log; what is kept here is which id each row got. Killed in
    the middle, the batch is asked again, and the later answers count.
    """
    if at.asked(period).is_file():
        return len(store.read_table(at.asked(period), "", columns=["id"]))
    wanted = list(dict.fromkeys((*contract.key, *contract.inputs)))
    landed = store.read_table(at.batch(period), f"perennial ingest {name} --batch {period}", wanted)
    rows = readable(landed, contract)

    service.wait_for(version)
    ids = service.predict(rows)

    store.write_table(at.asked(period), rows[list(contract.key)].assign(id=ids))
    log.info("ask %s %s: %d rows answered over HTTP by version %s", name, period, len(ids), version)
    return len(ids)


def tell(name: str, contract: Contract, at: Paths, period: str, service: Service) -> int:
    """Post the labels of a period that was asked; returns how many the service took as new."""
    if not at.asked(period).is_file():
        return 0
    asked = store.read_table(at.asked(period), f"perennial tick {name}")
    columns = [*contract.key, contract.label]
    batch = store.read_table(at.batch(period), f"perennial ingest {name} --batch {period}", columns)

    labelled = _labelled(asked, batch, contract)
    # As a caller spells them: 0 and 1, or names of classes.
    told = contract.named(contract.codes(labelled[contract.label])).tolist()
    counted = service.label(labelled["id"].tolist(), told)

    log.info("labels %s %s: told the service: %s", name, period, counted)
    return counted.get("accepted", 0)


def _labelled(asked: pd.DataFrame, batch: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    return asked.merge(batch, on=list(contract.key), validate="one_to_one")
