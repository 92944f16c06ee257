"""The champion answers a batch, and its answers are logged with id, version, time and inputs."""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING

from pipelines import metrics, store
from pipelines.agreement import unanswerable
from pipelines.artifact import Artifact
from pipelines.contract import Contract
from pipelines.errors import ArtifactError
from pipelines.graph import readable
from pipelines.paths import Paths
from pipelines.served import bodies
from pipelines.served.hidden import hashed
from pipelines.slices import row_keys

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def run(
    name: str, contract: Contract, at: Paths, period: str, model: Artifact, version: str
) -> int:
    """Rows answered. A batch already answered is left as it is: an answer given cannot be taken back.

    Columns are the contract's, and those that the model still reads where the contract has them.
    Raises ArtifactError where it cannot answer rows of this contract.
    """
    if at.predictions(period).is_file():
        return len(store.read_table(at.predictions(period), "", columns=["id"]))
    unlike = unanswerable(model.contract, contract)
    if unlike:
        raise ArtifactError(
            f"score {name} {period}: version {version} cannot answer rows of contracts/{name}.yaml "
            f"as it is now: {'; '.join(unlike)}. Train one under it with: perennial retrain {name} "
            f"--reason <why>; and let it answer with: perennial promote {name} --force"
        )
    still = (column for column in model.contract.inputs if column in contract.columns)
    wanted = list(dict.fromkeys((*contract.key, *contract.inputs, *still)))
    landed = store.read_table(at.batch(period), f"perennial ingest {name} --batch {period}", wanted)

    rows = readable(landed, contract)
    answers = answer(rows, contract, model, version)

    store.write_table(at.predictions(period), answers)
    log.info("score %s %s: %d rows by version %s", name, period, len(answers), version)
    return len(answers)


def answer(rows: pd.DataFrame, contract: Contract, model: Artifact, version: str) -> pd.DataFrame:
    """id, version, probability, threshold, prediction, at, then the rows as they were asked.

    The id is made of task, version and row key, so repeating a killed run gives the same ids.
    """
    import pandas as pd

    probability = model.predict(rows)
    known = pd.DataFrame(
        {
            "id": prediction_ids(rows, contract, version),
            "version": version,
            "probability": probability if probability.ndim == 1 else list(probability),
            "threshold": model.about.threshold,
            "prediction": contract.named(metrics.called(probability, model.about.threshold)),
            "at": dt.datetime.now(dt.UTC).replace(tzinfo=None, microsecond=0),
        }
    )
    private = [c for c in rows.columns if contract.columns[c].personal]
    asked = rows.assign(**{c: hashed(rows[c]) for c in private})
    asked = asked.rename(columns=bodies.stored).reset_index(drop=True)
    return pd.concat([known, asked], axis=1)


def prediction_ids(rows: pd.DataFrame, contract: Contract, version: str) -> list[str]:
    """`<task>-<version>-<16 hex digits of the row's key>`."""
    prefix = f"{contract.task}-{version}-"
    return [f"{prefix}{key:016x}" for key in row_keys(rows, contract).tolist()]
