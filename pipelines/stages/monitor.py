"""Has the world moved? One batch against the champion's training rows, and the champion's latest
labelled answers against what they could have been. Ends in an alarm, raised or not.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import labelled as labels
from pipelines import periods, store
from pipelines.agreement import unanswerable
from pipelines.artifact import Artifact
from pipelines.contract import Contract
from pipelines.drift import performance, profile, shift
from pipelines.drift.profile import Profile
from pipelines.drift.shift import Joint
from pipelines.graph import readable
from pipelines.params import Monitor, Task
from pipelines.paths import Paths
from pipelines.records import Alarm, ColumnDrift, Performance
from pipelines.served import answers
from pipelines.tasks.base import KINDS

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

SHOWN = 3
"""Columns that a reason names; the rest are in the alarm."""


def run(
    name: str,
    task: Task,
    contract: Contract,
    at: Paths,
    period: str,
    artifact: Artifact,
    version: str,
    made: dt.datetime,
    *,
    pages: bool = True,
) -> Alarm:
    """The alarm of `period`; the labels of that batch are not read. made: when `version` was
    registered, UTC; pages: draw one for people.

    Performance is judged on the answers that `version` itself gave to the period whose labels
    arrived last; answers of another version say nothing about this one and are left out.
    """
    unlike = unanswerable(artifact.contract, contract)
    if unlike or artifact.contract.inputs != contract.inputs:
        alarm = _other_contract(name, period, artifact, version, contract, unlike)
        store.write_text(at.alarm(period), alarm.model_dump_json(indent=1))
        return alarm
    reference = profile.read(artifact.folder)
    mend = f"perennial ingest {name} --batch {period}"
    rows = store.read_table(at.batch(period), mend, list(contract.inputs))
    known = periods.shift(period, task.period, -task.label_delay)
    labelled = _labelled(name, task, contract, at, known, version, made)
    expected = artifact.about.metrics["validation_auc"]

    seed, settings = task.train.seed, task.monitor
    watched = KINDS[task.kind].watched(readable(rows, contract), contract, artifact).table
    columns = shift.columns(reference, watched, settings, seed)
    joint = shift.joint(reference, watched, settings, seed)
    judged = None
    if labelled is not None:
        judged = performance.judge(known, labelled, contract, expected, settings, seed)
    reasons = found(columns, joint, judged, settings)
    alarm = Alarm(
        task=name,
        period=period,
        champion=version,
        rows=len(rows),
        columns=columns,
        joint_auc=joint.auc,
        joint_floor=joint.floor,
        joint_drifted=joint.drifted,
        performance=judged,
        raised=bool(reasons),
        reasons=reasons,
    )

    store.write_text(at.alarm(period), alarm.model_dump_json(indent=1))
    if pages:
        _draw(at.drift_page(period), alarm, reference, watched, settings, seed)
    log.info("monitor %s %s: %s", name, period, "; ".join(reasons) if alarm.raised else "no alarm")
    return alarm


def found(
    columns: tuple[ColumnDrift, ...],
    joint: Joint,
    judged: Performance | None,
    settings: Monitor,
) -> tuple[str, ...]:
    """Every reason for an alarm, in plain words with its numbers; empty when there is none."""
    reasons = []
    moved = sorted((c for c in columns if c.drifted), key=lambda c: c.floor / c.effect)
    if len(moved) >= settings.drifted_columns:
        named = [f"{c.column} by {c.effect:.2f} (at most {c.floor:.2f} in training)" for c in moved]
        more = f" and {len(moved) - SHOWN} more" if len(moved) > SHOWN else ""
        reasons.append(f"moved: {', '.join(named[:SHOWN])}{more}")
    if joint.drifted:
        reasons.append(
            f"told from the training rows with AUC {joint.auc:.3f} ({joint.floor:.3f} allowed)"
        )
    if judged and judged.high < judged.expected - settings.auc_drop:
        reasons.append(
            f"AUC {judged.auc:.3f} on {judged.period}, at most {judged.high:.3f}, against "
            f"{judged.expected:.3f} when the model was made (a fall of {settings.auc_drop} allowed)"
        )
    gain = judged.learnable - judged.auc if judged and judged.learnable is not None else 0.0
    if judged and gain >= settings.auc_gain and (judged.learnable_low or 0.0) > 0:
        reasons.append(
            f"the labels of {judged.period} teach {gain:+.3f} AUC, at least "
            f"{judged.learnable_low:+.3f}, beyond the champion's {judged.auc:.3f} "
            f"({settings.auc_gain} allowed)"
        )
    return tuple(reasons)


def _labelled(
    name: str,
    task: Task,
    contract: Contract,
    at: Paths,
    period: str,
    version: str,
    made: dt.datetime,
) -> pd.DataFrame | None:
    """The version's own answers to rows of the period, of the batch and over HTTP, with labels.

    One before it was registered is of a registry that is no more, and of another model.

    None before the first arrive. One answer a row: a client that asked again would count twice.
    """
    given = answers.given(at, contract, period, task.period)
    if given is None:
        return None
    known = labels.labels(at.served_labels, given["id"])
    if at.labels(period).is_file():
        batch = store.read_table(at.labels(period), f"perennial labels {name} --batch {period}")
        known |= dict(zip(batch["id"], batch["label"], strict=True))
    if not known:
        return None
    own = given[(given["version"].astype(str) == version) & (given["at"] >= made)]
    if len(own) < len(given):
        log.info(
            "monitor %s: %d of %d answers to %s left out, another version than %s gave them",
            name, len(given) - len(own), len(given), period, version,
        )  # fmt: skip
    if not len(own):
        return None
    label = own["id"].map(known)
    found = own.assign(label=label)[label.notna()]
    return answers.latest(found).reset_index(drop=True)


def _other_contract(
    name: str,
    period: str,
    artifact: Artifact,
    version: str,
    contract: Contract,
    unlike: Sequence[str],
) -> Alarm:
    """Rows or label are not those that the champion was trained on: nothing can be compared."""
    before, now = set(artifact.contract.inputs), set(contract.inputs)
    new, gone = (", ".join(sorted(some)) or "none" for some in (now - before, before - now))
    other = f"the contract's columns are not those of version {version}: new {new}, gone {gone}"
    cannot = f"version {version} cannot answer rows of the contract: {'; '.join(unlike)}"
    return Alarm(
        task=name,
        period=period,
        champion=version,
        rows=0,
        columns=(),
        raised=True,
        reasons=(*([other] if before != now else []), *([cannot] if unlike else [])),
    )


def _draw(
    path: Path, alarm: Alarm, reference: Profile, rows: pd.DataFrame, settings: Monitor, seed: int
) -> None:
    """The page is for reading and decides nothing, so a failure to draw is told and not raised."""
    from pipelines.adapters import drift

    time = reference.summary.time
    before, now = (
        profile.draw(table, time, settings.sample, seed) for table in (reference.sample, rows)
    )
    try:
        text = drift.page(alarm, reference.summary, before, now)
    except Exception as error:  # whatever Evidently raises: the alarm itself is written already
        log.warning("monitor %s %s: Evidently drew no page: %s", alarm.task, alarm.period, error)
        text = drift.plain_page(alarm, f"Evidently could not draw its charts: {error}")
    store.write_text(path, text)
