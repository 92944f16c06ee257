"""Why a version answers, and why another one does not, in words for people."""

from __future__ import annotations

import re

from pipelines.adapters.registry import CHALLENGER, CHAMPION, PENDING
from pipelines.service.wanted import Wanted


def why(slot: str, tags: dict[str, str]) -> str:
    """As far as the registry tells: it does not keep who moved an alias."""
    verdict, reason = tags.get("verdict", ""), tags.get("verdict_reason", "")
    if slot == CHAMPION and tags.get("promoted") and tags.get("rolled_back") != "true":
        return tags["promoted"]
    if verdict == PENDING:
        return "alias moved by hand" if slot == CHAMPION else "the gate has not judged it yet"
    if slot == CHALLENGER:
        return f"the gate said {verdict}: {reason}" if verdict else "alias set by hand"
    judged = f"; the gate had said {verdict}: {reason}" if verdict else ""
    return f"alias moved by hand{judged}"


def champion(named: dict[str, str], now: Wanted, task: str) -> str:
    """What a person should know where the champion does not follow its alias; else empty."""
    answers = now.champion.version if now.champion else None
    goes_on = f"version {answers} goes on answering" if answers else "nothing answers"
    if CHAMPION not in named and answers is None:
        return (
            f"the registry has no champion of {task} yet. Make one with: perennial tick {task}; or "
            f"let a version answer that was trained: perennial promote {task} --version <version> "
            "--force"
        )
    if CHAMPION not in named:
        return (
            f"the registry has no alias {CHAMPION}; {goes_on}. Name one with: "
            f"perennial promote {task} --version {answers} --force"
        )
    version = named[CHAMPION]
    if version in now.refused:
        return f"{CHAMPION} is version {version}, which is refused; {goes_on}: {now.refused[version].reason}"
    if answers != version:
        return f"{CHAMPION} is version {version}, which is being tried; {goes_on}"
    return ""


def without_password(text: str) -> str:
    """Addresses without what stands before the host: errors are shown to whoever asks the service."""
    return re.sub(r"//[^/\s]*@", "//", text)
