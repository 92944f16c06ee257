"""Can these tables of scores be compared at all? Pure: no file, no network, no clock.

The right artifacts, the same rows, rows that no training saw, numbers that are probabilities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.measures import check
from pipelines.params import Gate
from pipelines.records import Check, Scores

WHOLE = 1e-3
"""How far from 1 the probabilities of all classes may add up: float32, and int8 inside."""


@dataclass(frozen=True)
class Expected:
    """What the caller knows of the comparison, held against what the tables say."""

    champion: str | None
    """Version that the alias names; None before the first promotion."""
    artifacts: Mapping[str, str]
    """Version -> digest of its artifact on record in the registry."""
    rows: str
    """`rows_digest` of the rows that were handed out to be answered."""
    slices: tuple[str, ...]
    """Slices that the challenger's table must carry."""
    slice_rows: int
    """Fewest rows of a slice that is judged."""
    variant: Check | None = None
    """Which making of the challenger would serve; None where only one was made."""
    validation_auc: float | None = None
    """The challenger's AUC on its own validation rows; None where it recorded none."""


def rows_digest(key: np.ndarray, time: np.ndarray, label: np.ndarray) -> str:
    """md5 of keys, times and labels in their order: which rows a verdict speaks of."""
    digest = hashlib.md5()
    # Labels as floats: one that is missing is a number too, and told by a check of its own.
    for values, kind in ((key, np.uint64), (time, np.int64), (label, np.float64)):
        digest.update(np.ascontiguousarray(values, dtype=kind).tobytes())
    return digest.hexdigest()


def look(
    challenger: Scores,
    champion: Scores | None,
    baseline: Scores,
    settings: Gate,
    expected: Expected,
) -> list[Check]:
    rivals = {f"challenger {challenger.version}": challenger}
    if champion is not None:
        rivals[f"champion {champion.version}"] = champion
    tables = {**rivals, "baseline": baseline}
    checks = [
        _champion(champion, expected),
        *(_artifact(n, s, expected) for n, s in rivals.items()),
    ]
    arrays = [_arrays(name, scores) for name, scores in tables.items()]
    broken = [reason for reason in arrays if reason]
    shapes = {n: np.shape(s.probability)[1:] for n, s in tables.items()}
    if not broken and len(set(shapes.values())) > 1:
        told = ", ".join(f"{n} {shape[0] if shape else 2}" for n, shape in shapes.items())
        broken = [f"the tables are of different numbers of classes: {told}"]
    checks.append(check("arrays", not broken, "; ".join(broken) or "every table is whole"))
    if broken:
        return checks
    checks += [_rows(tables, expected), _slices_present(challenger, champion, expected)]
    checks += [_enough(challenger, settings), *(_unseen(n, s) for n, s in rivals.items())]
    checks += [_probabilities(n, s, constant=s is baseline) for n, s in tables.items()]
    return checks


def _champion(champion: Scores | None, expected: Expected) -> Check:
    answered = None if champion is None else champion.version
    return check(
        "champion",
        answered == expected.champion,
        f"the champion alias names {expected.champion or 'no version'}; "
        f"{'version ' + answered if answered else 'no champion'} answered the rows",
    )


def _artifact(name: str, scores: Scores, expected: Expected) -> Check:
    """Stale scores are those of another artifact than the one that would be promoted."""
    on_record = expected.artifacts.get(scores.version)
    return check(
        "artifact",
        scores.artifact == on_record,
        f"{name} answered with artifact {scores.artifact}; the registry has {on_record}",
    )


def _arrays(name: str, scores: Scores) -> str:
    """What makes the table unreadable; empty when nothing does."""
    rows = len(scores.label)
    columns = {"key": scores.key, "time": scores.time, "probability": scores.probability}
    for column, values in {**columns, "label": scores.label, **scores.slices}.items():
        whole = np.shape(values) == (rows,)
        # More than one class makes a probability of each.
        if column == "probability" and np.ndim(values) == 2:
            whole = len(values) == rows and np.shape(values)[1] > 1
        if not whole:
            return f"{name}: {column} has shape {np.shape(values)} for {rows} rows"
    for column, kinds in {"label": "biuf", "key": "iu", "time": "iu", "probability": "iuf"}.items():
        kind = np.asarray(getattr(scores, column)).dtype
        if kind.kind not in kinds:
            return f"{name}: {column} holds {kind}, not numbers"
    classes = _classes(scores)
    if not np.isin(scores.label, range(classes)).all():
        allowed = (
            "0 or 1, and some are neither" if classes == 2 else f"0 to {classes - 1}, not all are"
        )
        return f"{name}: labels are {allowed}"
    return ""


def _classes(scores: Scores) -> int:
    return np.shape(scores.probability)[1] if np.ndim(scores.probability) == 2 else 2


def _rows(tables: Mapping[str, Scores], expected: Expected) -> Check:
    digests = {n: rows_digest(s.key, s.time, s.label) for n, s in tables.items()}
    other = [name for name, digest in digests.items() if digest != expected.rows]
    key = next(iter(tables.values())).key
    repeated = len(key) - len(np.unique(key))
    if other:
        reason = f"{', '.join(other)} answered other rows, another order or other labels"
    elif repeated:
        reason = f"{repeated} rows have the key of another row"
    else:
        reason = f"the same {len(key)} rows in the same order"
    return check("rows", not other and not repeated, reason)


def _slices_present(challenger: Scores, champion: Scores | None, expected: Expected) -> Check:
    wanted = {*expected.slices, *(champion.slices if champion else ())}
    missing = sorted(wanted - set(challenger.slices))
    if champion:
        missing += sorted(set(expected.slices) - set(champion.slices))
    cut = [
        name
        for name, values in (champion.slices if champion else {}).items()
        if name in challenger.slices and not np.array_equal(values, challenger.slices[name])
    ]
    reason = f"every slice is there: {', '.join(sorted(wanted)) or 'none is asked for'}"
    if missing:
        reason = f"slices are missing: {', '.join(missing)}"
    elif cut:
        reason = f"slices are cut differently for champion and challenger: {', '.join(cut)}"
    return check("slices_present", not missing and not cut, reason)


def _enough(scores: Scores, settings: Gate) -> Check:
    of_each = np.bincount(scores.label.astype(np.int64), minlength=_classes(scores))
    fewest = int(of_each.min())
    told = f"{of_each[1]} with label 1" if len(of_each) == 2 else f"{fewest} of the rarest class"
    either = "either label" if len(of_each) == 2 else "each class"
    return check(
        "enough_rows",
        len(scores.label) >= settings.min_rows and fewest >= settings.min_class_rows,
        f"{len(scores.label)} rows, {told}; at least {settings.min_rows} rows and "
        f"{settings.min_class_rows} of {either} are needed",
        len(scores.label),
        settings.min_rows,
    )


def _unseen(name: str, scores: Scores) -> Check:
    first = int(np.min(scores.time)) if len(scores.time) else 0
    return check(
        "unseen_rows",
        first > scores.trained_until,
        f"{name} was trained until {_moment(scores.trained_until)}; "
        f"the first row judged is of {_moment(first)}",
        first,
        scores.trained_until,
    )


def _moment(seconds: int) -> str:
    return str(np.datetime64(int(seconds), "s"))


def _probabilities(name: str, scores: Scores, constant: bool) -> Check:
    """constant: whether one answer to all rows is allowed, as a baseline may give."""
    p = np.asarray(scores.probability, dtype=np.float64)
    wrong = int(np.sum(~np.isfinite(p))), int(np.sum((p < 0) | (p > 1)))
    reason = f"{name} answers with probabilities"
    if wrong[0]:
        reason = f"{name}: {wrong[0]} of {len(p)} answers are NaN or infinite"
    elif wrong[1]:
        reason = f"{name}: {wrong[1]} of {len(p)} answers lie outside 0 to 1"
    elif p.ndim == 2 and (off := np.abs(p.sum(axis=1) - 1) > WHOLE).any():
        reason = f"{name}: the classes of {off.sum()} of {len(p)} answers do not add up to 1"
        return check("probabilities", False, reason)
    elif not constant and len(p) and not np.ptp(p, axis=0).any():
        one = ", ".join(f"{value:.4f}" for value in np.atleast_1d(p[0]))
        reason = f"{name} gives the one answer {one} to all {len(p)} rows"
        return check("probabilities", False, reason)
    return check("probabilities", not any(wrong), reason)
