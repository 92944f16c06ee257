"""A window of valid batches as arrays: split in time, no picture in two parts, statistics fitted on train
only."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines import store
from pipelines.contract import Contract
from pipelines.drift import profile
from pipelines.encoder import hour_of_day
from pipelines.errors import ParamsError
from pipelines.graph import readable
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.prepared import Prepared
from pipelines.records import DataHash, Validation
from pipelines.tasks.base import KINDS, Encoded, Kind
from pipelines.tasks.split import split

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

    kind, mend = KINDS[task.kind], f"perennial ingest {name}"
    kind.check(task, contract)
    landed = [store.read_table(at.batch(period), mend) for period in periods]
    tables = [readable(table, contract) for table in landed]

    table = pd.concat(tables, ignore_index=True)
    seconds = table[contract.time].to_numpy().astype("datetime64[s]").astype(np.int64)
    parts = split(seconds, len(tables[-1]), task.window)
    train = table.iloc[parts.train]
    encoder = kind.fit_encoder(train, contract, task)
    encoded = {
        part: kind.encode(table.iloc[getattr(parts, part)], contract, encoder)
        for part in ("train", "validation", "test")
    }
    new = _new(kind, encoded)
    encoded = {
        part: rows if new[part].all() else rows.take(new[part]) for part, rows in encoded.items()
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
        baseline_rate=float(np.mean(encoded["train"].label == _usual(encoded["train"], contract))),
        baseline=_baseline(encoded["train"], contract),
    )

    for part, rows in encoded.items():
        _two_labels(name, part, rows, int((~new[part]).sum()))
    with store.atomic_folder(at.prepared) as folder:
        for part, rows in encoded.items():
            store.write_arrays(folder / f"{part}.npz", **vars(rows))
        for part in ("validation", "test"):
            raw = table.iloc[getattr(parts, part)]
            store.write_table(folder / f"{part}.parquet", raw[new[part]])
        store.write_text(folder / "encoder.json", encoder.model_dump_json(indent=1))
        watched = kind.watched(train, contract, None)
        profile.write(profile.make(watched, seed=task.train.seed), folder)
        store.write_text(folder / "prepared.json", prepared.model_dump_json(indent=1))
    if left_out := sum(map(len, landed)) - sum(map(len, tables)):
        log.info("prepare %s: %d rows that cannot be read are left out", name, left_out)
    if again := {part: int((~rows).sum()) for part, rows in new.items() if not rows.all()}:
        log.info(
            "prepare %s: %s rows are left out that an earlier part has already",
            name, " and ".join(f"{n} {part}" for part, n in again.items()),
        )  # fmt: skip
    log.info(
        "prepare %s %s..%s: %s rows", name, periods[0], periods[-1],
        ", ".join(f"{n} {part}" for part, n in prepared.rows.items()),
    )  # fmt: skip
    return prepared


def _new(kind: Kind, encoded: Mapping[str, Encoded]) -> dict[str, np.ndarray]:
    """Part -> (N,) bool: its rows that no earlier part has; judged on those, a model that learned them
    by heart looks good. Validation alone cannot keep them out: a contract may let in a few that repeat
    others, and no batch is held against one that landed before it and is of a later period."""
    seen: set[str] = set()
    found = {}
    for part, rows in encoded.items():
        names = kind.known_by(rows)
        if names is None:
            found[part] = np.ones(len(rows), dtype=bool)
            continue
        found[part] = np.array([name not in seen for name in names], dtype=bool)
        seen.update(names)
    return found


def _two_labels(name: str, part: str, rows: Encoded, left_out: int) -> None:
    """A model learns nothing from one label, and is judged by none."""
    if len(np.unique(rows.label)) < 2:
        without = f" (without {left_out} that an earlier part has)" if left_out else ""
        raise ParamsError(
            f"params.yaml: tasks.{name}.window: all {len(rows)} {part} rows{without} have the same "
            "label, and two are needed. Take more days or rows with: edit params.yaml"
        )


def _usual(rows: Encoded, contract: Contract) -> int:
    """The label whose share of the train rows is told: 1, or the commonest class."""
    return int(np.argmax(np.bincount(rows.label))) if contract.classes else 1


def _baseline(rows: Encoded, contract: Contract) -> dict[str, float]:
    """The prediction anyone could make without a model: share of each class among the train rows,
    or share of label 1 in each hour of the day."""
    if contract.classes:
        shares = np.bincount(rows.label, minlength=len(contract.classes)) / len(rows)
        return dict(zip(contract.classes, shares.tolist(), strict=True))
    hours = hour_of_day(rows.time).astype(int)
    return {
        str(hour): float(rows.label[hours == hour].mean()) for hour in sorted(set(hours.tolist()))
    }
