"""The contract's fields as the inputs of a form, filled with a real row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.wire.field import EXACT, FLOAT32, INT64, Field

EDGES = frozenset({-FLOAT32, FLOAT32, *INT64, -EXACT, EXACT})
"""Limits that are the number formats' own: to a person they are none."""


@dataclass(frozen=True)
class Input:
    """One input of the form; texts are plain, and escaped by the template."""

    id: str
    name: str
    type: Literal["datetime-local", "number", "text", "file"]
    kind: Literal["time", "number", "boolean", "text", "file"]
    """How its text is written in JSON."""
    empty: Literal["null", "omit", "text"]
    """What is sent of it when nothing is in it."""
    value: str
    options: tuple[str, ...]
    """All that it may hold; none: it is typed."""
    suggestions: tuple[str, ...]
    """What the contract knows, where it lets in more."""
    min: str
    max: str
    step: str
    unit: str
    description: str
    allowed: str
    """Its limits in words, where it has any."""
    says_empty: str
    """What an empty input means; empty where it must be filled."""


def inputs(fields: tuple[Field, ...], row: dict[str, Any] | None) -> tuple[Input, ...]:
    """row: a request row to fill them with; None leaves them empty."""
    return tuple(_input(field, row or {}) for field in fields)


def _input(field: Field, row: dict[str, Any]) -> Input:
    kind = _kind(field)
    options = ("true", "false") if kind == "boolean" else field.values or ()
    low, high = (_limit(field.low), _limit(field.high)) if kind == "number" else ("", "")
    return Input(
        id=field.attribute,
        name=field.name,
        type=TYPES.get(kind, "text"),
        kind=kind,
        empty=_empty(field, kind),
        value=_written(row.get(field.name)),
        options=options,
        suggestions=() if options else field.column.values or (),
        min=low,
        max=high,
        # A time's step is a second: without it, browsers hide the seconds.
        step={"timestamp": "1", "integer": "1", "number": "any"}.get(field.column.type, ""),
        unit=field.column.unit,
        description=field.column.description,
        allowed=_range(field, low, high),
        says_empty="left out" if not field.required else "not known" if field.nullable else "",
    )


def _range(field: Field, low: str, high: str) -> str:
    if field.column.type == "image":
        return f"{field.allowed[0].upper()}{field.allowed[1:]}."
    if field.hours:
        return f"Hours {field.hours[0]} to {field.hours[1]}."
    most = f"At most {field.at_most}. " if field.at_most else ""
    if low and high:
        return f"{most}From {low} to {high}."
    return most + (f"At least {low}." if low else f"At most {high}." if high else "")


TYPES: dict[str, Literal["datetime-local", "number", "text", "file"]] = {
    "time": "datetime-local",
    "number": "number",
    "file": "file",
}


def _kind(field: Field) -> Literal["time", "number", "boolean", "text", "file"]:
    if field.column.type == "image":
        return "file"
    if field.column.type == "timestamp":
        return "time"
    if field.column.type == "boolean":
        return "boolean"
    return "number" if field.column.type in ("integer", "number") else "text"


def _empty(field: Field, kind: str) -> Literal["null", "omit", "text"]:
    """Where nothing may stand, it is left out, and the service says that it is missing."""
    if field.required and field.nullable:
        return "null"
    return "text" if field.required and kind == "text" else "omit"


def _limit(number: float) -> str:
    return "" if number in EDGES or not math.isfinite(number) else _written(number)


def _written(value: Any) -> str:
    """As a form's input holds it: the shortest text that reads back as the same value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return str(int(value))
    return str(value)
