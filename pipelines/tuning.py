"""Which settings a tuning tries, and on which rows it judges them. Pure.

Rows are in time order, and so is every judgement: what a trial is judged on is strictly later than
all that it was fitted on, as in production.

N rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipelines.errors import ParamsError
from pipelines.params import Task
from pipelines.settings import explain
from pipelines.train_params import Train
from pipelines.tune_params import Dimension, Value, fields, whole

Values = dict[str, Value]
"""A setting of `train` by its dotted key."""
READ_BY: dict[str, tuple[str, ...]] = {
    block: (block,) for block in ("network", "boosting", "forest", "cnn", "resnet")
}
READ_BY |= {block: ("cnn", "resnet") for block in ("augment", "backbone")}
READ_BY |= {
    key: ("network", "cnn", "resnet") for key in ("device", "precision", "compile", "deterministic")
}
"""Families that read a block of `train`, or a setting of the machine; what is not here, all read."""
DIGITS = 3
"""Significant digits of a number that is tried: as many as a person would write down."""


@dataclass(frozen=True)
class Fold:
    """Positions in the rows. Fitted on train, stopped by validation, judged on judged."""

    train: slice
    validation: slice
    judged: slice


def check(name: str, task: Task) -> None:
    """Raises ParamsError where there is nothing to search, or a setting that trains nothing."""
    if not task.tune.space:
        raise ParamsError(
            f"params.yaml: tasks.{name}.tune.space is empty: say which settings of train to search, "
            "e.g. space: {network.learning_rate: {low: 0.0003, high: 0.03, log: true}}. "
            "Mend it with: edit params.yaml"
        )
    used = families(task)
    for key in task.tune.space:
        readers = READ_BY.get(key.split(".")[0], used)
        if not set(readers) & set(used):
            raise ParamsError(
                f"params.yaml: tasks.{name}.tune.space has {key}, but the family that is trained is "
                f"{' or '.join(used)}: it would change nothing. Families that read it: "
                f"{', '.join(readers)}. Mend it with: edit params.yaml"
            )


def families(task: Task) -> tuple[str, ...]:
    """All that are tried."""
    searched = task.tune.space.get("family")
    return tuple(map(str, searched.named)) if searched else (task.train.family,)


def present(train: Train, space: Mapping[str, Dimension]) -> Values:
    """What params.yaml says today of the keys that are searched."""
    found: Values = {}
    for key in space:
        here: Any = train
        for part in key.split("."):
            here = getattr(here, part)
        found[key] = here
    return found


def contains(space: Mapping[str, Dimension], values: Values) -> bool:
    """Could a search come upon these values?"""
    for key, dimension in space.items():
        value = values[key]
        if dimension.choices is not None:
            if not any(value == c and type(value) is type(c) for c in dimension.choices):
                return False
            continue
        low, high = dimension.bounds
        if value is None or isinstance(value, str) or not low <= value <= high:
            return False
        if dimension.step is not None:
            steps = (value - low) / dimension.step
            if abs(steps - round(steps)) > 1e-6:
                return False
    return True


def applied(train: Train, values: Mapping[str, Value]) -> Train:
    """`train` with these settings. Raises ParamsError where they do not go together."""
    content = train.model_dump()
    for key, value in values.items():
        *above, last = key.split(".")
        here = content
        for part in above:
            here = here[part]
        here[last] = value
    try:
        return Train.model_validate(content)
    except ValidationError as error:
        said = explain(error, "params.yaml, with settings of tune.space", Train)
        raise ParamsError(said) from None


def written(space: Mapping[str, Dimension], sampled: Mapping[str, Value]) -> Values:
    """What a sampler came upon, as it is tried and may stand in params.yaml: in few digits."""
    known = dict(fields())
    found: Values = {}
    for key, value in sampled.items():
        dimension = space[key]
        if dimension.choices is not None or not isinstance(value, int | float):
            found[key] = value
        elif whole(known[key]):
            found[key] = int(value)
        else:
            low, high = dimension.bounds
            digits = DIGITS if dimension.step is None else 10  # of a step, those it was given with
            found[key] = min(max(float(f"{value:.{digits}g}"), low), high)
    return found


def grid(space: Mapping[str, Dimension]) -> list[Values]:
    """Every combination, once."""
    axes = []
    for key, dimension in space.items():
        if dimension.choices is not None:
            axes.append(list(dimension.choices))
            continue
        assert dimension.step is not None
        low, high = dimension.bounds
        count = int((high - low) / dimension.step + 1e-6) + 1
        points = [low + dimension.step * i for i in range(count)]
        axes.append([written(space, {key: point})[key] for point in points])
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]


def folds(time: np.ndarray, count: int) -> tuple[Fold, ...]:
    """time (N,) ascending. Expanding: each is fitted on all rows before those that judge it.

    The first is fitted on two of count + 2 equal parts, the next on three, and each is judged on
    the part that follows. Validation, which stops a training early, is that part too, as the task's
    own validation rows are for its model: scores are a little too good, for all trials alike.
    """
    cuts = _cuts(time, count)
    return tuple(
        Fold(slice(0, cut), slice(cut, end), slice(cut, end))
        for cut, end in itertools.pairwise(cuts)
    )


def outer(time: np.ndarray, count: int, inner: int) -> tuple[Fold, ...]:
    """Folds to judge a tuning by: one sees rows before `judged` only, for all that it decides.

    `train` and `validation` are those rows, cut as the last of `inner` folds cuts them.
    """
    found = []
    for cut, end in itertools.pairwise(_cuts(time, count)):
        last = folds(time[:cut], inner)[-1]
        found.append(Fold(last.train, last.validation, slice(cut, end)))
    return tuple(found)


def _cuts(time: np.ndarray, count: int) -> list[int]:
    """Where the parts begin that judge, and N. Moved back to the first row of a moment."""
    n = len(time)
    near = [round(n * (part + 2) / (count + 2)) for part in range(count)]
    cuts = [int(np.searchsorted(time, time[at], side="left")) if at < n else n for at in near]
    cuts.append(n)
    if cuts[0] <= 0 or any(one >= other for one, other in itertools.pairwise(cuts)):
        raise ParamsError(
            f"params.yaml: {n} train rows are too few or too alike in time for tune.folds {count}. "
            "Take fewer folds, or a longer window, with: edit params.yaml"
        )
    return cuts
