"""How far a batch stands from the training rows, column by column and as a whole. Pure.

A column has moved when whole blocks of time, shuffled (`blocks.py`), rarely show such a difference,
*and* it went further than any stretch of the training window, as long as the batch, stands from the
rest of it: seasons and storms that the champion was trained through are no news. Measured rates:
docs/monitoring.md. N rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipelines import metrics
from pipelines.drift import blocks
from pipelines.drift.profile import Profile, Summary, draw, encoded, seconds, summarise, values
from pipelines.params import Monitor
from pipelines.records import ColumnDrift

if TYPE_CHECKING:
    import pandas as pd

CUTS = 15
"""Places where the distribution of a number is tested."""
LEVELS = 30
"""Commonest values of a category that are tested one by one; the rest are one."""
STRETCHES = 8
"""Most stretches of the training window that tell how far it strays from itself."""
STRETCH_ROWS = 100
"""Sampled rows below which a stretch says too little."""


class Joint(NamedTuple):
    auc: float
    """Of a classifier that tells the batch from the training rows; .5 or below = alike."""
    floor: float
    """AUC from which it counts."""
    drifted: bool


def columns(
    profile: Profile, table: pd.DataFrame, settings: Monitor, seed: int
) -> tuple[ColumnDrift, ...]:
    """Each column of a batch against the training rows; those without a value missing are left out
    of the missing ones. p-values are family-wise: P(any of them <= p) <= p where nothing moved.
    """
    was = profile.summary
    current = draw(table, was.time, settings.sample, seed)
    names = tuple(was.numbers), tuple(was.categories)
    # Of all rows: a sample of a category with a hundred values strays by .05 through chance alone.
    effects = distances(was, summarise(table, was.time, *names))
    history = [
        distances(summarise(rest, was.time, *names), summarise(stretch, was.time, *names))
        for stretch, rest in _stretches(profile.sample, current, was.time)
    ]
    significance = p_values(profile.sample, current, was, seed)
    found = []
    for name, effect in effects.items():
        floor = max([settings.effect, *(moved.get(name, 0.0) for moved in history)])
        p_value = significance.get(name, 1.0)
        found.append(
            ColumnDrift(
                column=name,
                effect=round(effect, 6),
                floor=round(floor, 6),
                p_value=p_value,
                drifted=p_value <= settings.p_value and effect >= floor,
            )
        )
    return tuple(found)


def joint(profile: Profile, table: pd.DataFrame, settings: Monitor, seed: int) -> Joint:
    """Can a classifier tell the batch from the training rows, on days that it has not seen?

    With rows of one day on both sides of a fold it would recognise the day's weather: two random
    halves of the days of a quarter are then told apart with AUC .84. The window's own stretches
    are asked the same when the answer is above `joint_auc`, since that is the dear part.
    """
    time = profile.summary.time
    current = draw(table, time, settings.sample, seed)
    reference = draw(profile.sample, time, settings.sample, seed)
    auc = round(_tell_apart(reference, current, profile.summary, seed), 6)
    floor = settings.joint_auc
    if auc >= floor:
        own = [
            _tell_apart(rest, stretch, profile.summary, seed)
            for stretch, rest in _stretches(reference, current, time)
        ]
        floor = round(max([floor, *own]), 6)
    return Joint(auc, floor, auc >= floor)


def distances(reference: Summary, current: Summary) -> dict[str, float]:
    """How far each column has moved, and the missing values of each that ever lacks one.

    Numbers: Wasserstein distance in reference standard deviations; of a constant number, the
    share of the distribution that left the constant. Categories and missing values: total
    variation, 0..1.
    """
    found = {}
    for name, was in reference.numbers.items():
        now = current.numbers[name]
        if not was.quantiles or not now.quantiles:
            found[name] = 0.0  # nothing to compare; the missing values tell
            continue
        apart = np.abs(np.array(was.quantiles) - np.array(now.quantiles))
        found[name] = float((apart / was.sd if was.sd > 0 else apart > 0).mean())
    for name, levels in reference.categories.items():
        found[name] = _total_variation(levels.counts, current.categories[name].counts)
    for name, column in (reference.numbers | reference.categories).items():
        after = (current.numbers | current.categories)[name].nulls
        if column.nulls or after:
            found[missing(name)] = abs(after - column.nulls)
    return found


def missing(column: str) -> str:
    """Name of the missing values of a column, tested as a column of their own."""
    return f"{column} (missing)"


def _total_variation(one: dict[str, int], other: dict[str, int]) -> float:
    if not one or not other:
        return 0.0
    levels = one.keys() | other.keys()
    n, m = sum(one.values()), sum(other.values())
    return sum(abs(one.get(v, 0) / n - other.get(v, 0) / m) for v in levels) / 2


def _stretches(
    reference: pd.DataFrame, current: pd.DataFrame, time: str
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """(stretch, rest) of the training rows: stretches as long as the batch, half over each other.

    Empty when the window is shorter than one and a half batches: it has no history to tell.
    """
    at, batch = seconds(reference, time), seconds(current, time)
    length = batch[-1] - batch[0] if len(batch) else 0
    whole = at[-1] - at[0]
    if length <= 0 or whole < 1.5 * length:
        return []
    starts = np.linspace(at[0], at[-1] - length, min(STRETCHES, int(2 * whole / length)))
    inside = [(at >= start) & (at <= start + length) for start in starts]
    return [
        (reference[here], reference[~here])
        for here in inside
        if min(here.sum(), (~here).sum()) >= STRETCH_ROWS
    ]


def p_values(
    reference: pd.DataFrame, current: pd.DataFrame, was: Summary, seed: int
) -> dict[str, float]:
    import pandas as pd

    def dealt(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        return blocks.of(seconds(rows, was.time), seconds(current, was.time), seed)

    sides = dealt(reference)
    # Blocks must be as noisy on both sides to be shuffled, or the batch's stand out by their noise
    # alone. The other way round the test is on the safe side.
    a_block = len(current) / len(np.unique(sides[1]))
    reference = draw(reference, was.time, round(a_block * len(np.unique(sides[0]))), seed)
    sides = dealt(reference)
    both = pd.concat([reference, current], ignore_index=True)
    # The same day on both sides is two blocks: one can be shuffled to either side.
    names, block = np.unique(np.r_[sides[0] * 2, sides[1] * 2 + 1], return_inverse=True)
    counts = {}
    for name in was.numbers:
        found = values(both, name, was.time)
        counts[name] = blocks.count_numbers(found, block, len(names), CUTS)
        counts[missing(name)] = blocks.count_codes(np.isnan(found).astype(int), block, len(names))
    for name in was.categories:
        common = both[name].value_counts().index[:LEVELS]
        codes = pd.Categorical(both[name], categories=common).codes.astype(np.int64)
        empty = both[name].isna().to_numpy()
        codes[(codes < 0) & ~empty] = len(common)
        counts[name] = blocks.count_codes(codes, block, len(names))
        counts[missing(name)] = blocks.count_codes(empty.astype(int), block, len(names))
    return blocks.p_values(counts, names % 2 == 1, seed)


def _tell_apart(reference: pd.DataFrame, current: pd.DataFrame, was: Summary, seed: int) -> float:
    """Mean AUC over held-out blocks; .5 when no fold has both sides."""
    import pandas as pd

    both = pd.concat([reference, current], ignore_index=True)
    features = encoded(both, was.time, was.numbers, was.categories)
    side = np.r_[np.zeros(len(reference), dtype=int), np.ones(len(current), dtype=int)]
    block = np.concatenate(
        blocks.of(seconds(reference, was.time), seconds(current, was.time), seed)
    )
    fold = blocks.folds(block, side, seed)
    answers = blocks.held_out(features, side, fold, seed)
    found = [metrics.auc(side[fold == f], answers[fold == f]) for f in np.unique(fold)]
    there = [auc for auc in found if np.isfinite(auc)]
    return float(np.mean(there)) if there else 0.5
