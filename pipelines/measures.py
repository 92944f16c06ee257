"""What the gate measures of tables whose structure is sound. Pure NumPy.

The interval of the gain speaks of these rows: they are resampled one by one. Rows of one day share
weather, so other days may differ by more than it says. Resampling whole days was tried on 36 pairs
of flights models, nine or ten days each: it let 19 pass instead of 30, 4 instead of 7 of them worse
in the next month, and the 11 more that it held would have gained .004 AUC on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from pipelines import metrics
from pipelines.params import Gate
from pipelines.records import Check, Scores

SEED = 7
"""Fixed: judging the same challenger again must not be a second throw of the dice."""

ONE_SIGMA = 0.6827
"""Confidence of the interval that is one standard deviation wide on either side."""
SLICE_LABELS = 20
"""Rows of another label than the commonest below which a slice's AUC says too little to judge it."""


def check(
    name: str, passed: object, reason: str, value: float | None = None, limit: float | None = None
) -> Check:
    """`passed` may be NumPy's bool; a value that is not finite stays in the reason only."""
    shown = float(value) if value is not None and np.isfinite(value) else None
    return Check(name=name, passed=bool(passed), value=shown, limit=limit, reason=reason)


def take(
    challenger: Scores,
    champion: Scores | None,
    baseline: Scores,
    settings: Gate,
    slice_rows: int,
    validation_auc: float | None,
) -> tuple[list[Check], dict[str, float]]:
    """Every measure of tables whose structure is sound, the proof of a gain last.

    slice_rows: fewest rows of a slice that is judged; validation_auc: the challenger's own.
    """
    # In the order of their keys, so that the order in which rows came draws no other resamples.
    order = np.argsort(challenger.key, kind="stable")
    label = challenger.label[order]
    p = challenger.probability[order].astype(np.float64)
    naive = metrics.auc(label, baseline.probability[order])
    found = {
        "challenger_auc": metrics.auc(label, p),
        "baseline_auc": naive,
        "challenger_accuracy": metrics.accuracy(label, p, challenger.threshold),
        "challenger_calibration": metrics.calibration_error(label, p),
        "latency_ms": challenger.latency_ms,
        "size_bytes": float(challenger.size_bytes),
    }
    checks = [_direction(found["challenger_auc"]), *_too_good(found, settings, validation_auc)]
    checks.append(_baseline(found["challenger_auc"], naive, settings))
    rival = None
    if champion is not None:
        rival = champion.probability[order].astype(np.float64)
        found["champion_auc"] = metrics.auc(label, rival)
        found["champion_accuracy"] = metrics.accuracy(label, rival, champion.threshold)
        found["champion_calibration"] = metrics.calibration_error(label, rival)
        checks.append(_champion_baseline(champion.version, found["champion_auc"], naive, settings))
        slices = {n: np.asarray(v)[order] for n, v in challenger.slices.items()}
        checks += _slices(label, p, rival, slices, settings, slice_rows)
    checks.append(_calibration(found, settings))
    checks += [_latency(challenger.latency_ms, settings), _size(challenger.size_bytes, settings)]
    if champion is not None and rival is not None:
        gain = metrics.auc_difference(
            label, p, rival, settings.bootstrap, SEED, _two_sided(settings.confidence)
        )
        found |= {"difference": gain.value, "low": gain.low, "high": gain.high}
        checks.append(_better(champion.version, found, settings))
    return checks, found


def _two_sided(one_sided: float) -> float:
    """Confidence of the two-sided interval whose ends have this one-sided confidence."""
    return 2 * one_sided - 1


def _direction(auc: float) -> Check:
    reason = f"AUC {auc:.4f}; below .5 the answers point the wrong way"
    return check("direction", auc > 0.5, reason, auc, 0.5)


def _too_good(found: Mapping[str, float], settings: Gate, own: float | None) -> list[Check]:
    auc, limit = found["challenger_auc"], settings.max_auc
    reason = f"AUC {auc:.4f}; above {limit} is too good to be true: look for a leaked label"
    checks = [check("plausible_auc", auc <= limit, reason, auc, limit)]
    if own is not None:
        jump = auc - own
        reason = (
            f"AUC {auc:.4f} against {own:.4f} on its own validation rows; a gain of more than "
            f"{settings.max_jump} is too good to be true: look for test rows among the train rows"
        )
        checks.append(
            check("plausible_jump", jump <= settings.max_jump, reason, jump, settings.max_jump)
        )
    return checks


def _baseline(auc: float, naive: float, settings: Gate) -> Check:
    gain, limit = auc - naive, settings.baseline_gain
    reason = (
        f"{gain:+.4f} AUC against the naive baseline ({auc:.4f} against {naive:.4f}); "
        f"more than {limit} is needed"
    )
    return check("baseline", gain > limit, reason, gain, limit)


def _champion_baseline(version: str, auc: float, naive: float, settings: Gate) -> Check:
    """Never holds a challenger back: a champion that has sunk this low is one more reason to go."""
    gain, limit = auc - naive, settings.baseline_gain
    said = "still beats" if gain > limit else "no longer beats"
    reason = f"champion {version} {said} the naive baseline: {gain:+.4f} AUC, {limit} is asked for"
    return check("champion_baseline", True, reason, gain, limit)


def _slices(
    label: np.ndarray,
    challenger: np.ndarray,
    champion: np.ndarray,
    slices: Mapping[str, np.ndarray],
    settings: Gate,
    fewest: int,
) -> list[Check]:
    """One check for each slice that lost too much; one in all when none did.

    The confidence is that of all slices together (Bonferroni): forty judged one by one at 95 %
    would hold most challengers for a slice that lost by chance. So far out, a bootstrap has too few
    draws for a quantile, and its standard deviation is used with the normal one.
    """
    judged = _judged(label, slices, fewest)
    reach = NormalDist().inv_cdf(1 - (1 - settings.confidence) / max(len(judged), 1))
    lost = []
    worst, worst_name, reached = np.inf, "", 0.0
    for name, here in judged.items():
        gain = metrics.auc_difference(
            label[here], challenger[here], champion[here], settings.bootstrap, SEED, ONE_SIGMA
        )
        at_most = gain.value + reach * (gain.high - gain.low) / 2
        if gain.value < worst:
            worst, worst_name, reached = gain.value, name, at_most
        if not at_most >= -settings.slice_drop:
            reason = (
                f"{name} ({here.sum()} rows): {gain.value:+.4f} AUC against the champion, "
                f"{at_most:+.4f} at most; a loss of {settings.slice_drop} may be"
            )
            lost.append(check("slice", False, reason, gain.value, -settings.slice_drop))
    if lost:
        return lost
    shown = (
        f", the worst {worst_name} at {worst:+.4f} AUC ({reached:+.4f} at most)" if judged else ""
    )
    reason = f"{len(judged)} slices of {fewest} rows or more judged{shown}"
    return [check("slices", True, reason, worst, -settings.slice_drop)]


def _judged(
    label: np.ndarray, slices: Mapping[str, np.ndarray], fewest: int
) -> dict[str, np.ndarray]:
    """`column=value` -> (N,) bool, of the slices with enough rows that are not of one label."""
    found = {}
    for name, values in sorted(slices.items()):
        for value in np.unique(values):
            here = values == value
            commonest = int(np.bincount(label[here].astype(np.int64)).max())
            if here.sum() >= fewest and int(here.sum()) - commonest >= SLICE_LABELS:
                found[f"{name}={value}"] = here
    return found


def _calibration(found: Mapping[str, float], settings: Gate) -> Check:
    """A world that moved spoils every calibration: no worse than the champion's is enough."""
    error, limit = found["challenger_calibration"], settings.calibration
    rival = found.get("champion_calibration", 0.0)
    reason = f"calibration error {error:.4f}; at most {limit} is allowed"
    if error > limit and "champion_calibration" in found:
        reason += f", or the champion's {rival:.4f}"
    return check("calibration", error <= max(limit, rival), reason, error, max(limit, rival))


def _latency(latency_ms: float, settings: Gate) -> Check:
    limit = settings.latency_ms
    reason = f"one answer takes {latency_ms:.2f} ms; at most {limit} ms are allowed"
    return check("latency", latency_ms <= limit, reason, latency_ms, limit)


def _size(size_bytes: int, settings: Gate) -> Check:
    size, limit = size_bytes / 1e6, settings.size_mb
    reason = f"the model's files have {size:.1f} MB; at most {limit} MB are allowed"
    return check("size", size <= limit, reason, size, limit)


def _better(champion: str, found: Mapping[str, float], settings: Gate) -> Check:
    low, limit = found["low"], settings.min_gain
    reason = (
        f"{found['difference']:+.4f} AUC against champion {champion} "
        f"({found['challenger_auc']:.4f} against {found['champion_auc']:.4f}), at least {low:+.4f} "
        f"with {settings.confidence:.0%} confidence; more than {limit} is needed"
    )
    return check("better", low > limit, reason, low, limit)
