"""What a refused request is answered: problem details (RFC 9457), one stable shape for all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import msgspec

MEDIA = "application/problem+json"
MOST = 20
"""Mistakes that one answer tells; the rest is counted."""
TEXT = 80
"""Longest text of a value that is repeated."""

Kind = Literal[
    "unreadable", "unauthorized", "not-found", "wrong-method", "too-slow", "too-large",
    "wrong-media-type", "invalid-rows", "unanswerable-rows", "invalid-labels", "too-many-requests",
    "no-model", "log-full", "labels-not-taken", "internal",
]  # fmt: skip

KINDS: dict[Kind, tuple[int, str]] = {
    "unreadable": (400, "The body cannot be read as what its content type says"),
    "unauthorized": (401, "An API key is needed"),
    "not-found": (404, "There is nothing at this address"),
    "wrong-method": (405, "This address takes another method"),
    "too-slow": (408, "The body did not come in time"),
    "too-large": (413, "The body is too large"),
    "wrong-media-type": (415, "The content type is not one that this address takes"),
    "invalid-rows": (422, "The rows are not as the contract allows"),
    "unanswerable-rows": (422, "The model has no answer to the rows: a value is too large for it"),
    "invalid-labels": (422, "The labels are not as they must be"),
    "too-many-requests": (429, "Too many requests at the same time"),
    "no-model": (503, "No model is loaded yet"),
    "log-full": (503, "The answer cannot be logged, so it is not given"),
    "labels-not-taken": (503, "The labels cannot be stored now, so none was taken"),
    "internal": (500, "The service failed; the request may be right"),
}
"""Kind, stable for programs -> status and title. Its address is `/problems/<kind>`."""

Shown = str | int | float | bool | None


class Mistake(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong with a request."""

    field: str
    """Where, e.g. rows[0].carrier; the name of a column where all its rows are wrong."""
    allowed: str
    message: str
    value: Shown | msgspec.UnsetType = msgspec.UNSET
    """What is there, shortened; left out where nothing is."""


class _Body(msgspec.Struct, omit_defaults=True):
    type: str
    title: str
    status: int
    detail: str
    errors: tuple[Mistake, ...] = ()
    more: int = 0


@dataclass(frozen=True)
class Problem:
    kind: Kind
    detail: str
    errors: tuple[Mistake, ...] = ()
    more: int = 0
    """Mistakes beyond those in `errors`."""

    @property
    def status(self) -> int:
        return KINDS[self.kind][0]

    @property
    def title(self) -> str:
        return KINDS[self.kind][1]

    def body(self) -> bytes:
        return msgspec.json.encode(
            _Body(
                f"/problems/{self.kind}",
                self.title,
                self.status,
                self.detail,
                self.errors,
                self.more,
            )
        )


class Refused(Exception):
    """A request that is answered with a problem. Not a PipelineError: the asker mends it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refused(kind: Kind, detail: str) -> Refused:
    return Refused(Problem(kind, detail))


def refused_rows(mistakes: list[Mistake], more: int = 0, kind: Kind = "invalid-rows") -> Refused:
    """mistakes: at least one; those beyond MOST are only counted. more: counted, not told."""
    total = len(mistakes) + more
    count = "one mistake" if total == 1 else f"{total:,} mistakes, the first"
    detail = f"{count}: {mistakes[0].message}"
    return Refused(
        Problem(kind, detail, tuple(mistakes[:MOST]), total - MOST if total > MOST else 0)
    )


def wrong(field: str, value: object, allowed: str) -> Mistake:
    said = shown(value)
    told = msgspec.json.encode(said).decode()
    return Mistake(field, allowed, f"{field} is {told}; allowed: {allowed}", said)


def missing(field: str, allowed: str) -> Mistake:
    return Mistake(field, allowed, f"{field} is missing; allowed: {allowed}")


def shown(value: object) -> Shown:
    """The value as an answer may repeat it: short, and JSON whatever it is."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return value if abs(value) < 2**63 else "a whole number of more than 64 bits"
    if isinstance(value, str):
        return value if len(value) <= TEXT else f"{value[: TEXT - 1]}…"
    if isinstance(value, list | tuple):
        return f"an array of {len(value):,}"
    if isinstance(value, dict):
        return f"an object of {len(value):,}"
    return shown(str(value))
