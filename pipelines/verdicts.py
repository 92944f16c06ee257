"""A verdict as a person reads it before deciding."""

from __future__ import annotations

from pipelines import ledger
from pipelines.errors import UnknownId
from pipelines.project import Project
from pipelines.records import Check, Verdict


def of_version(project: Project, version: str) -> Verdict:
    """The newest verdict on a version; raises UnknownId where there is none."""
    found = ledger.newest(project.at.ledger, "verdict", challenger=version)
    if found is None:
        raise UnknownId(
            f"{project.name} version {version} was never judged here. Judge the newest training "
            f"with: perennial gate {project.name}"
        )
    return ledger.verdict_of(found)


def as_markdown(project: Project, verdict: Verdict, page: str = "") -> str:
    """page: address of the version in MLflow's own pages, where it has any."""
    judged = ledger.newest(project.at.ledger, "verdict", challenger=verdict.challenger)
    period = judged["period"] if judged else None
    trained = ledger.newest(project.at.ledger, "retraining", period=period)
    against = f"champion {verdict.champion}" if verdict.champion else "no champion"
    # What the check of that name says, and so only where it was made and passed.
    unseen = [check.passed for check in verdict.checks if check.name == "unseen_rows"]
    seen = " that neither has seen" if unseen and all(unseen) else ""
    asked = [f"- {reason}" for reason in trained["reasons"]] if trained else []
    lines = [
        f"**{verdict.decision}** version {verdict.challenger} of {verdict.task}, against {against}, "
        f"on {verdict.rows} rows{seen}: {verdict.reason}",
        "",
        "| check | | value | limit | |",
        "| --- | --- | --- | --- | --- |",
        *(_row(check) for check in verdict.checks),
        "",
        *(["Why it was trained:", "", *asked, ""] if asked else []),
        *([f"[Version {verdict.challenger} in MLflow]({page})"] if page else []),
    ]
    return "\n".join(lines).strip() + "\n"


def _row(check: Check) -> str:
    value, limit = ("" if n is None else f"{n:.4g}" for n in (check.value, check.limit))
    said = check.reason.replace("|", "\\|").replace("\n", " ")
    return f"| {check.name} | {'ok' if check.passed else 'FAIL'} | {value} | {limit} | {said} |"
