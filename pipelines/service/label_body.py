"""The body of a post of labels: what it may be, and in words what is wrong with it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from pipelines.contract import Contract
from pipelines.service.pages import openapi
from pipelines.wire.problem import Mistake, Problem

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=openapi.LONGEST_ID)]
ZeroOrOne = (
    Annotated[int, msgspec.Meta(ge=0, le=1)]
    | Annotated[float, msgspec.Meta(ge=0.0, le=1.0, multiple_of=1.0)]
)
"""1.0 is 1, to JSON Schema and to whoever writes a column with gaps."""


def labels_decoder(contract: Contract) -> msgspec.json.Decoder[Any]:
    """Body -> its labels, each an id and a label that the contract knows."""
    told: Any = Literal[contract.classes] if contract.classes else ZeroOrOne
    label: Any = msgspec.defstruct(
        "Label", [("id", Id), ("label", told)], forbid_unknown_fields=True
    )
    many: Any = Annotated[list[label], msgspec.Meta(min_length=1, max_length=openapi.MOST_LABELS)]
    return msgspec.json.Decoder(
        msgspec.defstruct("Labels", [("labels", many)], forbid_unknown_fields=True)
    )


LABELS_ALLOWED = {
    "id": f"the prediction id of an answer, 1 to {openapi.LONGEST_ID} characters",
    "labels": f"1 to {openapi.MOST_LABELS:,} objects with id and label",
}


def wrong_labels(said: str, classes: tuple[str, ...]) -> Problem:
    """said: msgspec's words, e.g. Expected `int` <= 1 - at `$.labels[0].label`."""
    what, _, path = said.partition(" - at `$.")
    field = path.rstrip("`") or "labels"
    known = {"label": f"one of {', '.join(classes)}" if classes else "0 or 1", **LABELS_ALLOWED}
    allowed = known.get(field.rpartition(".")[2], "an object with id and label, no more")
    mistake = Mistake(field, allowed, f"{field}: {what}; allowed: {allowed}")
    return Problem("invalid-labels", mistake.message, (mistake,))
