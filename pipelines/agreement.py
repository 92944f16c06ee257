"""Can a model answer rows of a contract that is not the one it was trained under?"""

from __future__ import annotations

from collections.abc import Collection

from pipelines.contract import Column, Contract


def unanswerable(
    model: Contract, rows: Contract, having: Collection[str] | None = None
) -> list[str]:
    """Why rows of the contract `rows` are none for the model, or its answers none to their label;
    empty when they are. having: those columns of the contract that the rows have, by default all.

    Limits and allowed values may differ: they say what is refused, not what a row is. Those of the
    label are what an answer means, and their order is that of its probabilities. A model reads whole
    numbers, others, and yes and no alike.
    """
    there = rows.columns if having is None else having
    reasons = [
        f"{role} is {told} in the model and {wanted} in the contract"
        for role, told, wanted in (
            ("time", model.time, rows.time),
            ("label", model.label, rows.label),
            ("classes", ", ".join(model.classes), ", ".join(rows.classes)),
        )
        if told != wanted
    ]
    reasons += [f"the model reads {n}, which no row has" for n in model.inputs if n not in there]
    shared = [n for n in model.inputs if n in there]
    types = [(n, _read_as(model.columns[n]), _read_as(rows.columns[n])) for n in shared]
    return reasons + [
        f"{n} is of type {theirs} in the model and {ours} in the contract"
        for n, theirs, ours in types
        if theirs != ours
    ]


def _read_as(column: Column) -> str:
    if column.size is None:
        return "number" if column.type in ("integer", "number", "boolean") else column.type
    return f"{column.type} of {column.size[0]} x {column.size[1]}, {column.mode}"
