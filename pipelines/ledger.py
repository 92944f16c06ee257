"""What the loop decided and did, one JSON line each, oldest first; lines are only ever added.

An entry has `kind` (alarm, decision, retraining, verdict, promotion or rollback), `at` (ISO time,
UTC), what it speaks of (`period`, `version`) and what was said.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from pathlib import Path
from typing import Any

from pipelines import store
from pipelines.records import Alarm, Decision, Record, Retraining, Verdict

log = logging.getLogger(__name__)

KINDS: dict[type[Record], str] = {
    Alarm: "alarm",
    Decision: "decision",
    Retraining: "retraining",
    Verdict: "verdict",
}


def append(path: Path, entry: dict[str, Any]) -> None:
    """`at` is added where the entry has none."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    store.append_line(path, json.dumps({"at": now, **entry}, allow_nan=False))


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole line; one torn by a crash is left out, and said."""
    entries = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            log.warning("%s line %d is torn and left out: %.60s", path, number, line)
    return entries


def record(path: Path, said: Alarm | Decision | Retraining | Verdict, **more: Any) -> bool:
    """False, and nothing added, when the newest entry on the same subject says the same already.

    So a step that was killed after its line, and is done again, leaves one line.
    """
    entry = {"kind": KINDS[type(said)], **more, **said.model_dump(mode="json")}
    earlier = [e for e in read(path) if _subject(e) == _subject(entry)]
    if earlier and _content(earlier[-1]) == _content(entry):
        return False
    append(path, entry)
    return True


def _subject(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(name) for name in ("kind", "task", "period", "challenger"))


def _content(entry: dict[str, Any]) -> dict[str, Any]:
    """What two lines must share to be the same: not the time, nor what a clock measured."""
    content = {k: v for k, v in entry.items() if k not in ("at", "metrics")}
    content["checks"] = [(c["name"], c["passed"]) for c in entry.get("checks", ())]
    return content


def newest(path: Path, kind: str, **subject: Any) -> dict[str, Any] | None:
    """The last entry of a kind whose fields have these values."""
    found = [
        e
        for e in read(path)
        if e["kind"] == kind and all(e.get(name) == value for name, value in subject.items())
    ]
    return found[-1] if found else None


def of_kind(path: Path, kind: str) -> list[dict[str, Any]]:
    """The entries of a kind, oldest first."""
    return [e for e in read(path) if e["kind"] == kind]


def verdict_of(entry: dict[str, Any]) -> Verdict:
    return Verdict.model_validate({k: v for k, v in entry.items() if k in Verdict.model_fields})


def history(path: Path, before: str) -> list[Alarm | Decision]:
    """What was said of the periods before `before`, oldest first; the newest line of each."""
    found: dict[tuple[str, str], Alarm | Decision] = {}
    for entry in read(path):
        said = {k: v for k, v in entry.items() if k not in ("kind", "at")}
        if entry["kind"] == "alarm" and entry["period"] < before:
            found[entry["period"], "alarm"] = Alarm.model_validate(said)
        elif entry["kind"] == "decision" and entry["period"] < before:
            found[entry["period"], "decision"] = Decision.model_validate(said)
    return [found[subject] for subject in sorted(found)]
