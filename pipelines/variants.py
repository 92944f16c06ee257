"""Which making of a trained model serves: what each was measured to do, and the choice. Pure.

A variant is held against the model that it was made of, never against other models: the test rows
say whether it still is that model, and how good the model is remains the gate's to judge.

N rows, A rows of them asked one by one, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines import metrics
from pipelines.records import Check, Record
from pipelines.variant_params import Variants

ORIGINAL = "fp32"
"""The model as it was trained and exported."""
BATCH = 256
"""Rows of the larger of the two requests that are timed."""


@dataclass(frozen=True)
class Seen:
    """What one graph was seen to do. answers (N,) or (N, K) float32; alone (A,) or (A, K): the
    answers to the first A rows when each is asked by itself."""

    answers: np.ndarray
    alone: np.ndarray
    size_bytes: int
    zipped_bytes: int
    row_ms: float
    """Median time of one single-row answer."""
    batch_ms: float
    """Median time of the answer to BATCH rows."""


class Measured(Record):
    """One variant against the model as trained. A measure is None where it could not be taken."""

    name: str
    checks: tuple[Check, ...] = ()
    parity: float | None = None
    """Largest difference of one answer."""
    auc: float | None = None
    auc_change: float | None = None
    log_loss_change: float | None = None
    calibration_change: float | None = None
    accuracy_change: float | None = None
    """Of classes only: a 0/1 label has a threshold, which is chosen afterwards."""
    size_bytes: int = 0
    zipped_bytes: int = 0
    row_ms: float = 0.0
    batch_ms: float = 0.0

    @property
    def accepted(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """Why it is refused; empty when it is not."""
        return next((check.reason for check in self.checks if not check.passed), "")


def original(seen: Seen, label: np.ndarray) -> Measured:
    """The row of the table that the others are read against."""
    return Measured(
        name=ORIGINAL, auc=_finite(metrics.auc(label, seen.answers)), **_weight_and_time(seen)
    )


def refused(name: str, check: str, reason: str) -> Measured:
    """A variant that there is nothing to measure of."""
    return Measured(name=name, checks=(Check(name=check, passed=False, reason=reason),))


def measure(
    name: str, seen: Seen, trained: Seen, label: np.ndarray, settings: Variants, steady: float
) -> Measured:
    """trained: the model as trained, seen on the same rows in turns; steady: how far an answer may
    move with the rows that it is asked together with."""
    wrong = _unreadable(seen.answers, trained.answers)
    if wrong:
        return refused(name, "answers", f"{name}: {wrong}").model_copy(
            update=_weight_and_time(seen)
        )
    parity = float(np.max(np.abs(seen.answers - trained.answers), initial=0.0))
    auc = metrics.auc(label, seen.answers)
    change = {
        f"{what}_change": _finite(of(label, seen.answers) - of(label, trained.answers))
        for what, of in {
            "auc": metrics.auc,
            "log_loss": metrics.log_loss,
            "calibration": metrics.calibration_error,
        }.items()
    }
    if seen.answers.ndim == 2:
        change["accuracy_change"] = metrics.accuracy(label, seen.answers, 0.0) - metrics.accuracy(
            label, trained.answers, 0.0
        )
    checks = (
        _alone(seen, steady),
        _at_most("parity", "one answer differs by", parity, settings.max_parity),
        _at_most("auc", "AUC falls by", _negative(change["auc_change"]), settings.max_auc_loss),
        _at_most("log_loss", "log loss rises by", change["log_loss_change"],
                 settings.max_log_loss_rise),
        _slower(seen, trained, settings.max_slowdown),
        _gain(seen, trained, settings.min_gain),
    )  # fmt: skip
    return Measured(
        name=name, checks=checks, parity=parity, auc=_finite(auc), **change,
        **_weight_and_time(seen),
    )  # fmt: skip


def choose(table: Sequence[Measured]) -> Measured:
    """The first variant that passed every check; the model as trained, first of the table, if none."""
    return next((m for m in table[1:] if m.accepted), table[0])


def told(table: Sequence[Measured]) -> Check:
    """Which one serves, and why: a check of the verdict that always passes."""
    if len(table) < 2:
        reason = f"{ORIGINAL} serves: no variant was asked for"
    else:
        chosen = choose(table)
        passed_over = table[1:] if chosen is table[0] else table[1 : table.index(chosen)]
        why = "" if chosen is table[0] else f": {_merits(chosen, table[0])}"
        others = "".join(f"; not {m.name}: {m.reason}" for m in passed_over)
        reason = f"{chosen.name} serves{why}{others}"
    return Check(name="variant", passed=True, reason=reason)


def _merits(one: Measured, trained: Measured) -> str:
    return (
        f"{one.zipped_bytes / trained.zipped_bytes:.2f} of the size zipped, "
        f"{_times(one.row_ms, trained.row_ms)} the time for one row and "
        f"{_times(one.batch_ms, trained.batch_ms)} for {BATCH}, answers at most {one.parity:.2g} "
        f"away, AUC {one.auc_change:+.4f}"
    )


def _times(took: float, against: float) -> str:
    return f"{took / against:.2f} times"


def _unreadable(answers: np.ndarray, expected: np.ndarray) -> str:
    """What makes the answers no probabilities of the same rows; empty when nothing does."""
    if answers.shape != expected.shape:
        return f"answers of shape {answers.shape}, not {expected.shape}"
    broken = int(np.sum(~np.isfinite(answers)))
    if broken:
        return f"{broken} of {answers.size} answers are NaN or infinite"
    outside = int(np.sum((answers < 0) | (answers > 1)))
    return f"{outside} of {answers.size} answers lie outside 0 to 1" if outside else ""


def _alone(seen: Seen, steady: float) -> Check:
    """Batch scoring, service and gate must agree about a row, whatever rows come with it."""
    together = seen.answers[: len(seen.alone)]
    found = float(np.max(np.abs(together - seen.alone), initial=0.0))
    return _at_most("alone", "asked alone and together with others, one answer differs by", found,
                    steady)  # fmt: skip


def _at_most(name: str, what: str, value: float | None, limit: float) -> Check:
    value = None if value is None else _finite(value)
    if value is None:
        reason = f"{what} what these test rows cannot tell: they lack rows or labels"
        return Check(name=name, passed=False, limit=limit, reason=reason)
    reason = f"{what} {value:.2g}; at most {limit:g} is allowed"
    return Check(name=name, passed=value <= limit, value=value, limit=limit, reason=reason)


def _slower(seen: Seen, trained: Seen, limit: float) -> Check:
    one, many = seen.row_ms / trained.row_ms, seen.batch_ms / trained.batch_ms
    reason = (
        f"{one:.2f} times as long for one row, {many:.2f} times for {BATCH}; "
        f"at most {limit:g} times is allowed"
    )
    worst = max(one, many)
    return Check(name="slower", passed=worst <= limit, value=worst, limit=limit, reason=reason)


def _gain(seen: Seen, trained: Seen, limit: float) -> Check:
    smaller = trained.zipped_bytes / seen.zipped_bytes
    one, many = trained.row_ms / seen.row_ms, trained.batch_ms / seen.batch_ms
    reason = (
        f"{smaller:.2f} times smaller zipped, {one:.2f} times faster for one row, {many:.2f} times "
        f"for {BATCH}; one of them must be {limit:g}"
    )
    best = max(smaller, one, many)
    return Check(name="gain", passed=best >= limit, value=best, limit=limit, reason=reason)


def _weight_and_time(seen: Seen) -> dict[str, int | float]:
    return {
        "size_bytes": seen.size_bytes,
        "zipped_bytes": seen.zipped_bytes,
        "row_ms": seen.row_ms,
        "batch_ms": seen.batch_ms,
    }


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
