"""A window of valid batches as arrays: split in time, statistics fitted on train only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines import store
from pipelines.contract import Contract
from pipelines.drift import profile
from pipelines.encoder import fit_encoder, hour_of_day
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.prepared import Prepared
from pipelines.records import DataHash, Rows, Validation
from pipelines.tasks import tabular

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


def run(
    name: str,
    task: Task,
    contract: Contract,
    at: Paths,
    periods: Sequence[str],
    validations: Sequence[Validation],
) -> Prepared:
    """validations: the accepted result of each period, in the same order."""
    import pandas as pd

    mend = f"perennial ingest {name}"
    tables = [store.read_table(at.batch(period), mend) for period in periods]

    table = pd.concat(tables, ignore_index=True)
    seconds = table[contract.time].to_numpy().astype("datetime64[s]").astype(np.int64)
    parts = tabular.split(seconds, len(tables[-1]), task.window)
    train = table.iloc[parts.train]
    encoder = fit_encoder(train, contract, task.calendar, task.min_category)
    encoded = {
        part: tabular.rows(table.iloc[getattr(parts, part)], encoder, contract)
        for part in ("train", "validation", "test")
    }
    prepared = Prepared(
        first=periods[0],
        last=periods[-1],
        data=tuple(
            DataHash(
                period=v.period,
                md5=v.content,
                rows=v.rows,
                validation=store.digest_of(v.model_dump(mode="json")),
            )
            for v in validations
        ),
        contract=contract.digest,
        trained_until=int(seconds[parts.validation][-1]),
        rows={part: len(rows) for part, rows in encoded.items()},
        baseline_rate=float(encoded["train"].label.mean()),
        baseline=_rate_by_hour(encoded["train"]),
    )

    with store.atomic_folder(at.prepared) as folder:
        for part, rows in encoded.items():
            store.write_arrays(
                folder / f"{part}.npz",
                numbers=rows.numbers, codes=rows.codes, label=rows.label, time=rows.time,
            )  # fmt: skip
        store.write_table(folder / "test.parquet", table.iloc[parts.test])
        store.write_text(folder / "encoder.json", encoder.model_dump_json(indent=1))
        profile.write(profile.make(train, contract, seed=task.train.seed), folder)
        store.write_text(folder / "prepared.json", prepared.model_dump_json(indent=1))
    log.info(
        "prepare %s %s..%s: %s rows", name, periods[0], periods[-1],
        ", ".join(f"{n} {part}" for part, n in prepared.rows.items()),
    )  # fmt: skip
    return prepared


def _rate_by_hour(rows: Rows) -> dict[str, float]:
    """Share of label 1 in each hour of the day: the prediction anyone could make without a model."""
    hours = hour_of_day(rows.time).astype(int)
    return {
        str(hour): float(rows.label[hours == hour].mean()) for hour in sorted(set(hours.tolist()))
    }
