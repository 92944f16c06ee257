"""Two tables of scores -> a verdict. Pure: no file, no network, no clock.

Checks of structure (`structure.py`) come first. When one fails, the measures would mean nothing and
are not taken.
Otherwise every measure is taken (`measures.py`), so that a held challenger is told all its reasons
at once.
"""

from __future__ import annotations

import numpy as np

from pipelines import measures, structure
from pipelines.params import Gate
from pipelines.records import Check, Scores, Verdict
from pipelines.served import live as over_http
from pipelines.served.live import Live
from pipelines.structure import Expected, rows_digest


def judge(
    task: str,
    challenger: Scores,
    champion: Scores | None,
    baseline: Scores,
    settings: Gate,
    expected: Expected,
    live: Live | None = None,
) -> Verdict:
    """baseline: the answers that anyone could give without a model, to the same rows.
    live: what champion and challenger answered over HTTP; it can only hold, never promote.

    Without a champion, `None` in both `champion` and `expected`, the baseline is the only rival.
    Never raises on bad numbers: they are reasons to hold.
    """
    checks = structure.look(challenger, champion, baseline, settings, expected)
    checks += [expected.variant] if expected.variant else []
    found: dict[str, float] = {}
    digest = ""
    if _named(checks, "arrays"):
        digest = rows_digest(challenger.key, challenger.time, challenger.label)
    if all(c.passed for c in checks):
        more, found = measures.take(
            challenger, champion, baseline, settings, expected.slice_rows, expected.validation_auc
        )
        checks += more
    if live is not None:
        judged, figures = over_http.compare(live, settings, measures.SEED)
        checks.append(judged)
        found |= figures
    return Verdict(
        task=task,
        challenger=challenger.version,
        champion=expected.champion,
        decision="promote" if all(c.passed for c in checks) else "hold",
        checks=tuple(checks),
        rows=len(challenger.label),
        rows_digest=digest,
        metrics={name: value for name, value in found.items() if np.isfinite(value)},
    )


def held(task: str, challenger: str, champion: str | None, name: str, reason: str) -> Verdict:
    """The verdict where there is nothing to compare: something could not be loaded or raised."""
    check = Check(name=name, passed=False, reason=reason)
    return Verdict(
        task=task, challenger=challenger, champion=champion, decision="hold", checks=(check,)
    )


def _named(checks: list[Check], name: str) -> bool:
    return any(c.name == name and c.passed for c in checks)
