"""What the loop did, month by month: the table that `make demo` ends in and replay draws."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import metrics, store
from pipelines.artifact import Artifact, load
from pipelines.contract import Contract
from pipelines.errors import MissingInput
from pipelines.graph import readable
from pipelines.loop import Tick, ticks
from pipelines.project import Project
from pipelines.records import Record
from pipelines.served import answers
from pipelines.slices import row_keys
from pipelines.watching import FIRST


class Line(Record):
    """One ticked batch, looked back on: its labels are read, so this is for judging, not deciding."""

    period: str
    rows: int
    rate: float
    """Share of label 1, or of the commonest class."""
    champion: str
    auc: float
    """Of the answers that were given."""
    frozen_auc: float
    """What the first model would have scored."""
    action: str
    reason: str
    verdict: str | None
    why: str


def lines(project: Project, first: Artifact) -> list[Line]:
    """One line a tick, oldest first; first: the model that the loop began with."""
    return [_line(project, tick, first) for tick in ticks(project)]


def _line(project: Project, tick: Tick, first: Artifact) -> Line:
    batch = store.read_table(
        project.at.batch(tick.period), f"perennial ingest {project.name} --batch {tick.period}"
    )
    batch = readable(batch, project.contract)
    label = project.contract.codes(batch[project.contract.label])
    given = answers_in_order(project, tick.period, row_keys(batch, project.contract))
    answered = np.isfinite(given.reshape(len(given), -1)).all(axis=1)
    return Line(
        period=tick.period,
        rows=len(batch),
        rate=metrics.rate(label, bool(project.contract.classes)),
        champion=tick.champion,
        auc=metrics.auc(label[answered], given[answered]),
        frozen_auc=metrics.auc(label, first.predict(batch)),
        action=tick.decision.action,
        reason="; ".join(tick.decision.reasons),
        verdict=tick.verdict,
        why=tick.why,
    )


def answers_in_order(project: Project, period: str, keys: np.ndarray) -> np.ndarray:
    """(N,) probabilities given to the rows named by `keys`, or (N, K) of each class; the latest where
    there were several.

    NaN where a row was never answered. Raises MissingInput when none was.
    """
    given = answers.given(project.at, project.contract, period, project.task.period)
    if given is None:
        raise MissingInput(
            f"{project.name} has no answers to {period}. "
            f"Make them with: perennial score {project.name} --batch {period}"
        )
    by_row = dict(zip(given["row"], given["probability"], strict=True))
    classes = len(project.contract.classes)
    none = np.full(classes, np.nan) if classes else np.nan
    return np.array([by_row.get(f"{key:016x}", none) for key in keys.tolist()])


def first_model(project: Project) -> Artifact:
    """The model that answered the loop's first tick."""
    from pipelines.adapters.registry import Registry

    return load(Registry(project.at).fetch(ticks(project)[0].champion))


WIDE = 80
"""Characters of all batches' names above which they stand aslant, or they would run into each other."""
WIDTH = 100
"""Columns of the terminal that the table is folded to."""


def as_table(found: list[Line]) -> str:
    """A line of numbers a batch, and below it, folded, what was decided and why."""
    head = f"{'batch':<12}{'rows':>8}{'rate':>8}{'champion':>10}{'AUC':>8}{'frozen':>8}"
    out = [head, "-" * len(head)]
    for line in found:
        out.append(
            f"{line.period:<12}{line.rows:>8}{line.rate:>8.3f}{'v' + line.champion:>10}"
            f"{line.auc:>8.3f}{line.frozen_auc:>8.3f}"
        )
        out += _folded(f"{line.action}: {line.reason}")
        if line.verdict:
            out += _folded(f"{line.verdict}: {line.why}")
    mean, frozen = (float(np.mean([getattr(x, f) for x in found])) for f in ("auc", "frozen_auc"))
    trainings = sum(x.action == "retrain" and x.reason != FIRST for x in found)
    out.append("-" * len(head))
    out.append(
        f"{'mean':<38}{mean:>8.3f}{frozen:>8.3f}   {trainings} retrainings after the first model"
    )
    return "\n".join(out)


def _folded(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="      ")


def picture(
    path: Path,
    title: str,
    series: dict[str, list[float]],
    found: list[Line],
    retrained: dict[str, list[str]],
    contract: Contract,
) -> None:
    """Quality by batch, a line a policy, a mark where a policy asked for a training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    periods = [line.period for line in found]
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(9, 6), sharex=True, layout="constrained", height_ratios=[3, 1]
    )
    for name, values in series.items():
        (drawn,) = top.plot(periods, values, marker="o", ms=4, label=name)
        marked = [p for p in retrained.get(name, []) if p in periods]
        top.plot(
            marked, [values[periods.index(p)] for p in marked],
            "^", ms=11, mfc="none", color=drawn.get_color(),
        )  # fmt: skip
    top.set(title=title, ylabel="AUC of the answers given")
    top.legend(title="△ retrained")
    bottom.bar(periods, [line.rate for line in found], color="lightgrey")
    bottom.set(ylabel="share of the\ncommonest class" if contract.classes else "share of label 1")
    if len("".join(periods)) > WIDE:
        bottom.tick_params(axis="x", rotation=45)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": ""})
    plt.close(figure)


def summary(found: list[Line]) -> dict[str, Any]:
    return {
        "lines": [line.model_dump(mode="json") for line in found],
        "mean_auc": float(np.mean([line.auc for line in found])),
        "mean_frozen_auc": float(np.mean([line.frozen_auc for line in found])),
    }
