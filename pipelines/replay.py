"""Ticks over history under a policy, to see what the policy would have earned and cost."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines import report, store
from pipelines.loop import PolicyName, tick, ticks
from pipelines.project import Project
from pipelines.watching import FIRST

log = logging.getLogger(__name__)


def replay(project: Project, policies: Sequence[PolicyName], last: str) -> dict[str, Any]:
    """Each policy from the same first window to `last`, in a registry and folders of its own.

    Begins anew every time. Policies share a training of the same window, since it gives the same
    model; its seconds count for each policy that asked for it.
    """
    home = replace(project.at, replay=policies[0]).live.parent
    shutil.rmtree(home, ignore_errors=True)
    told: dict[str, Any] = {}
    found: list[report.Line] = []
    for policy in policies:
        one = replace(project, at=replace(project.at, replay=policy))
        period = project.shift(project.task.window.last, 1)
        while period <= last:
            done = tick(one, period, follow=policy, pages=False)
            log.info("replay %s %s: champion v%s, %s", policy, period, done.champion, done.why)
            period = project.shift(period, 1)
        found = report.lines(one, report.first_model(one))
        told[policy] = _account(one, found)
    store.write_json(home / "replay.json", told)
    report.picture(
        home / "replay.png",
        f"{project.name}: {', '.join(policies)}",
        {p: [line["auc"] for line in told[p]["lines"]] for p in policies},
        found,
        {p: told[p]["retrained"] for p in policies},
        project.contract,
    )
    return told


def _account(project: Project, found: list[report.Line]) -> dict[str, Any]:
    """Quality, trainings and seconds of one policy; the first model is everyone's and not counted."""
    asked = [t for t in ticks(project) if t.window and t.decision.reasons != (FIRST,)]
    seconds = [
        store.read_json(
            project.ending(t.window["last"]).at.model.with_name("seconds.json"), "perennial replay"
        )["seconds"]
        for t in asked
        if t.window
    ]
    return report.summary(found) | {
        "trainings": len(asked),
        "retrained": [t.period for t in asked],
        "promotions": sum(t.verdict == "promote" for t in asked),
        "seconds": round(float(np.sum(seconds)), 1),
    }


def as_table(told: dict[str, Any]) -> str:
    policies = list(told)
    width = max(12, *(len(p) + 2 for p in policies))
    out = [f"{'AUC':<12}" + "".join(f"{p:>{width}}" for p in policies)]
    for index, line in enumerate(told[policies[0]]["lines"]):
        values = (told[p]["lines"][index] for p in policies)
        out.append(
            f"{line['period']:<12}"
            + "".join(
                f"{v['auc']:>{width - 1}.4f}{'^' if line['period'] in told[p]['retrained'] else ' '}"
                for p, v in zip(policies, values, strict=True)
            )
        )
    for title, key, form in (
        ("mean", "mean_auc", ".4f"),
        ("trainings", "trainings", "d"),
        ("promotions", "promotions", "d"),
        ("seconds", "seconds", ".1f"),
    ):
        out.append(
            f"{title:<12}" + "".join(f"{told[p][key]:>{width - 1}{form}} " for p in policies)
        )
    return "\n".join([*out, "^ a training was asked for; seconds of training only"])
