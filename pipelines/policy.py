"""From alarms to retrain or rest. Pure: what was said before comes in, what to do comes out.

An alarm stands for `of` batches, or until a retraining answers it. One that is put off (cooldown,
budget, too few labels) is due again with the next batch, for as long as it stands. A retraining
whose challenger the gate held costs budget but brings no cooldown: there is no new champion to
wait for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.params import Policy
from pipelines.records import Alarm, Decision


def decide(
    task: str,
    period: str,
    alarm: Alarm,
    history: Sequence[Alarm | Decision],
    settings: Policy,
    new_labels: int,
) -> Decision:
    """history: alarms and decisions of earlier periods, in any order; those of `period` or later
    are not looked at, so deciding again gives the same. new_labels: labelled rows that arrived
    since the last training.
    """
    past = [record for record in history if record.period < period]
    decisions = {d.period: d for d in past if isinstance(d, Decision)}
    retrained = sorted(p for p, d in decisions.items() if d.action == "retrain")
    alarms = {a.period: a for a in past if isinstance(a, Alarm)} | {period: alarm}

    batches = sorted({*decisions, *alarms})
    since = [p for p in batches[-settings.of :] if not retrained or p > retrained[-1]]
    raised = [p for p in since if p in alarms and alarms[p].raised]
    due = len(raised) >= settings.alarms
    blocks = _blocks(batches, retrained, alarms, settings, new_labels)

    if due and not blocks:
        said = [r if p == period else f"{p}: {r}" for p in raised for r in alarms[p].reasons]
        return Decision(task=task, period=period, action="retrain", reasons=tuple(said))
    if due:
        said = [f"an alarm stands, but {block}" for block in blocks]
    elif raised:
        said = [
            f"{len(raised)} of the last {settings.of} batches raised an alarm since the last "
            f"retraining; {settings.alarms} are needed"
        ]
    else:
        said = [f"no alarm: {calm(alarm)}"]
    return Decision(task=task, period=period, action="rest", reasons=tuple(said))


def calm(alarm: Alarm) -> str:
    """What the monitor saw of a batch that raised no alarm, in one line with its numbers."""
    seen = []
    if alarm.columns:
        moved = sum(c.drifted for c in alarm.columns)
        nearest = max(alarm.columns, key=lambda c: (c.drifted, c.effect / c.floor))
        seen.append(
            f"{moved} of {len(alarm.columns)} columns moved, {nearest.column} comes first "
            f"with {nearest.effect:.2f} of {nearest.floor:.2f} allowed and p {nearest.p_value:.3f}"
        )
    if alarm.joint_auc is not None:
        seen.append(f"told from the training rows with AUC {alarm.joint_auc:.3f}")
    if judged := alarm.performance:
        seen.append(f"AUC {judged.auc:.3f} on {judged.period}")
        if judged.learnable is not None:
            seen[-1] += f", {judged.learnable:.3f} with what its labels teach"
    else:
        seen.append("no labelled answers to judge yet")
    return "; ".join(seen)


def _blocks(
    batches: Sequence[str],
    retrained: Sequence[str],
    alarms: Mapping[str, Alarm],
    settings: Policy,
    new_labels: int,
) -> list[str]:
    """Everything that forbids a retraining now; batches and retrained are periods, oldest first."""
    found = []
    if retrained:
        before, now = alarms.get(retrained[-1]), alarms[batches[-1]]
        rested = sum(p > retrained[-1] for p in batches[:-1])
        held = before is not None and before.champion == now.champion
        if rested < settings.cooldown and not held:
            found.append(
                f"the cooldown lasts: {rested} of {settings.cooldown} batches rested "
                f"since {retrained[-1]}"
            )
    spent = sum(p in retrained for p in batches[-settings.budget_batches :])
    if spent >= settings.budget:
        found.append(
            f"the budget is spent: {spent} of {settings.budget} retrainings in the last "
            f"{settings.budget_batches} batches"
        )
    if new_labels < settings.min_labels:
        found.append(
            f"labels are too few: {new_labels} rows since the last training, "
            f"{settings.min_labels} are needed"
        )
    return found
