"""The page that people read of one batch: our verdict on top, Evidently's charts below.

Evidently decides nothing here. Its own rules were measured: one raises a false alarm for 97-100 %
of batches that did not move, the other sees at most 2.5 % of large shifts in one of 15 columns.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from pipelines.drift import profile
from pipelines.drift.profile import Summary
from pipelines.records import Alarm, ColumnDrift, Performance

if TYPE_CHECKING:
    import pandas as pd

TOTAL_VARIATION = "total_variation"
NARROW = 1e-3
"""Evidently divides by max(deviation, .001): a narrower number is drawn in its own deviations."""
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
"""What a browser may fetch for the page: nothing from anywhere."""


def page(alarm: Alarm, summary: Summary, before: pd.DataFrame, now: pd.DataFrame) -> str:
    """One HTML file that needs no other. before: training rows; now: rows of the batch; both raw.

    Raises whatever Evidently raises; no columns of ours are known to make it.
    """
    text = _charts(alarm, summary, before, now)
    head, body = text.split("<body>", 1)
    head = head.replace("<head>", f"<head>\n{_meta()}", 1)
    note = (
        f"Charts: {len(before):,} training rows (reference) against {len(now):,} of "
        "the batch (current). They mark a column by distance alone; the alarm asks for p as well."
    )
    return f"{head}<body>\n{_verdict(alarm, note)}\n{body}"


def plain_page(alarm: Alarm, note: str) -> str:
    """The verdict alone, with a note that says why."""
    title = escape(f"{alarm.task} {alarm.period}")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{_meta()}\n'
        f"<title>{title}</title>\n</head>\n<body>\n{_verdict(alarm, note)}\n</body>\n</html>\n"
    )


def _meta() -> str:
    return f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'


def _charts(alarm: Alarm, summary: Summary, before: pd.DataFrame, now: pd.DataFrame) -> str:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    _register_total_variation()
    before, now = frame(before, summary), frame(now, summary)
    # A column without a single value ends Evidently's whole report.
    drawn = [str(c) for c in before if before[c].notna().any() and now[c].notna().any()]
    definition = DataDefinition(
        numerical_columns=[c for c in drawn if c in summary.numbers],
        categorical_columns=[c for c in drawn if c in summary.categories],
    )
    floors = {c.column: c.floor for c in alarm.columns}
    preset = DataDriftPreset(
        columns=drawn,
        num_method="wasserstein",
        cat_method=TOTAL_VARIATION,
        per_column_threshold={c: floors[c] for c in drawn},
    )
    with np.errstate(all="ignore"):  # its own divisions by empty bins
        snapshot = Report([preset]).run(
            Dataset.from_pandas(now[drawn], definition),
            Dataset.from_pandas(before[drawn], definition),
        )
    return str(snapshot.get_html_str(as_iframe=False))


def frame(table: pd.DataFrame, summary: Summary) -> pd.DataFrame:
    """The drift columns in types that Evidently reads: float64 and text (it ignores times, drops
    nullable and Arrow types without a word, and fails on a pandas NA)."""
    import pandas as pd

    columns: dict[str, np.ndarray] = {}
    for name, number in summary.numbers.items():
        scale = number.sd if 0 < number.sd < NARROW else 1.0
        columns[name] = profile.values(table, name, summary.time) / scale
    for name in summary.categories:
        found = table[name].astype(object)
        texts = found.where(found.notna(), None).map(str, na_action="ignore")
        # Evidently writes values into its script as they are: "</script>" would end it.
        columns[name] = texts.str.replace("<", "‹", regex=False).to_numpy()
    return pd.DataFrame(columns)


def _register_total_variation() -> None:
    """Evidently has no such distance; ours is what the alarm's floors are in."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    def distance(
        before: pd.Series, now: pd.Series, feature_type: object, threshold: float
    ) -> tuple[float, bool]:
        shares = (side.value_counts(normalize=True) for side in (before, now))
        one, other = shares
        apart = float(one.sub(other, fill_value=0).abs().sum() / 2)
        return apart, apart >= threshold

    test = StatTest(TOTAL_VARIATION, "total variation", [ColumnType.Categorical], 0.1)
    register_stattest(test, default_impl=distance)


def _verdict(alarm: Alarm, note: str) -> str:
    """The alarm in words and one table; every text is escaped."""
    said = "Alarm" if alarm.raised else "No alarm"
    colour = "#cf222e" if alarm.raised else "#1a7f37"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in alarm.reasons)
    facts = [f"{alarm.rows:,} rows, champion {alarm.champion}"]
    if alarm.joint_auc is not None:
        facts.append(
            f"told from the training rows with AUC {alarm.joint_auc:.3f} "
            f"({alarm.joint_floor:.3f} allowed)"
        )
    facts.append(_measured(alarm.performance))
    ordered = sorted(alarm.columns, key=lambda c: (not c.drifted, -c.effect / c.floor))
    cells = "".join(map(_row, ordered))
    return f"""<section style="font: 15px/1.5 sans-serif; margin: 1.5rem; max-width: 72rem">
<h1 style="font-size: 1.4rem">{escape(alarm.task)}, batch {escape(alarm.period)}:
<span style="color: {colour}">{said}</span></h1>
<ul>{reasons}</ul>
<p>{escape("; ".join(facts))}.</p>
<table style="border-collapse: collapse; text-align: left">
<tr><th>column</th><th>moved by</th><th>allowed</th><th>p, all columns</th><th></th></tr>
{cells}</table>
<p>Numbers move in standard deviations of the training rows, categories and missing values in share
of rows. Allowed is what stretches of the training window themselves show. {escape(note)}</p>
</section>"""


def _row(column: ColumnDrift) -> str:
    mark = "<b>drifted</b>" if column.drifted else ""
    figures = (f"{figure:.3f}" for figure in (column.effect, column.floor, column.p_value))
    cells = (escape(column.column), *figures)
    padded = "".join(f'<td style="padding-right: 1.5rem">{cell}</td>' for cell in cells)
    return f"<tr>{padded}<td>{mark}</td></tr>\n"


def _measured(judged: Performance | None) -> str:
    if judged is None:
        return "none of the champion's answers has a label yet"
    text = f"AUC {judged.auc:.3f} ({judged.low:.3f} to {judged.high:.3f}) on {judged.period}"
    if judged.learnable is not None:
        text += f", {judged.learnable:.3f} with what its labels teach"
    return text
