"""contracts/<task>.yaml -> a typed contract: the reviewed description of one batch.

From this one file come the expectations, the drift columns, the encoder and the service's
request model, so a column is described once.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from pipelines.errors import MissingInput, ParamsError
from pipelines.settings import Settings, explain

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Type = Literal["timestamp", "integer", "number", "category", "boolean", "image"]
Severity = Literal["critical", "warning"]


class Column(Settings):
    """One column of a batch: what it is, and what its values may be."""

    type: Type
    description: str = ""
    unit: str = ""
    feature: bool = True
    """Does the model see it? A key is a feature too unless this is false; label and time never are."""
    personal: bool = False
    """Hashed wherever predictions are logged."""
    nulls: float = Field(default=0.0, ge=0, le=1)
    """Largest share of missing values a batch may have."""
    min: float | None = None
    max: float | None = None
    mean: tuple[float, float] | None = None
    """Where a batch's mean must lie: catches a changed unit whose values stay in range."""
    hours: tuple[int, int] | None = None
    """timestamp only: first and last hour of the day seen; catches a changed time zone."""
    outside: float = Field(default=0.0, ge=0, lt=1)
    """Share of rows that may lie outside `min`, `max` or `hours`; above it the rule is broken."""
    at_most: str | None = None
    """A number column that this one never exceeds in its row; catches two columns swapped."""
    values: tuple[str, ...] | None = None
    """category only: every value allowed; absent means any."""
    new_values: float = Field(default=0.0, ge=0, le=1)
    """Share of rows that may hold a value outside `values`; above it the batch is stopped."""
    size: tuple[int, int] | None = None
    """image only, and needed there: height and width in pixels."""
    mode: Literal["L", "RGB"] | None = None
    """image only, and needed there: grey or colour, as Pillow names them."""
    unreadable: float = Field(default=0.0, ge=0, lt=1)
    """image only: share of a batch's pictures that may be no picture, or one of another size or mode,
    all of them together; above it the rules are broken. Each is named, none is learned from or
    answered."""
    plain: float = Field(default=0.0, ge=0, lt=1)
    """image only: share of a batch's pictures that may be of one colour, all black or all white."""
    duplicates: float = Field(default=0.0, ge=0, lt=1)
    """image only: share of a batch's pictures that may repeat another one of it or of an earlier
    batch, pixel by pixel; above it the rule is broken. None of them judges a model that learned it."""
    distinct: int = Field(default=1, ge=1)
    """Fewest different values a batch may have: 2 catches a constant column."""
    balance: tuple[float, float] | None = None
    """The label only, where it is a category: smallest and largest share of a batch's rows that a
    class may have. A class that is not there at all is `distinct`'s to see."""
    may_tell_label: bool = False
    """Reviewed: one value of this column, or its absence, may decide the label, and is known
    before it. Without this, such a column stops the batch as a leak."""
    severity: Severity = "critical"
    """What a broken rule on this column's *values* means; a missing column is always critical."""

    @model_validator(mode="after")
    def _rules_fit_the_type(self) -> Column:
        numeric = self.type in ("integer", "number")
        for rule, allowed in {
            "min": numeric, "max": numeric, "mean": numeric,
            "at_most": numeric,
            "hours": self.type == "timestamp", "values": self.type == "category",
            "size": self.type == "image", "mode": self.type == "image",
            "balance": self.type == "category",
        }.items():  # fmt: skip
            if getattr(self, rule) is not None and not allowed:
                raise ValueError(f"{rule} does not apply to a column of type {self.type}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if self.balance is not None and self.balance[0] > self.balance[1]:
            raise ValueError(f"balance {self.balance[0]} is above {self.balance[1]}")
        if self.type == "image" and (self.size is None or self.mode is None or min(self.size) < 1):
            raise ValueError("an image needs size: [height, width] in pixels, and mode: L or RGB")
        for rule in ("unreadable", "plain", "duplicates"):
            if getattr(self, rule) and self.type != "image":
                raise ValueError(f"{rule} does not apply to a column of type {self.type}")
        if self.outside and self.min is None and self.max is None and self.hours is None:
            raise ValueError("outside needs min, max or hours to be outside of")
        return self


class RowCount(Settings):
    """How many rows a batch may have."""

    min: int = Field(default=1, ge=1)
    max: int | None = None
    against_history: tuple[float, float] = (0.5, 2.0)
    """Allowed ratio to the median row count of the earlier batches."""


class Contract(Settings):
    task: str
    description: str = ""
    time: str
    """The timestamp column that puts rows in order and in their period."""
    key: tuple[str, ...] = Field(min_length=1)
    """Columns that together name one row, and never repeat."""
    label: str
    """0 or 1, and 1 is what the model gives the probability of; or a category whose `values` are the
    classes, and the model gives the probability of each."""
    rows: RowCount = RowCount()
    columns: dict[str, Column]
    """In the order that a batch has them."""

    @model_validator(mode="after")
    def _named_columns_exist(self) -> Contract:
        for role, names in {"time": [self.time], "key": self.key, "label": [self.label]}.items():
            for name in names:
                if name not in self.columns:
                    raise ValueError(
                        f"{role} names the column {name!r}, which columns does not describe; "
                        f"described are: {', '.join(self.columns)}"
                    )
        for name, column in self.columns.items():
            other = self.columns.get(column.at_most) if column.at_most else None
            if column.at_most and (other is None or other.type not in ("integer", "number")):
                raise ValueError(
                    f"at_most of {name} names {column.at_most!r}, which is no number column"
                )
            if column.balance is not None and name != self.label:
                raise ValueError(f"balance is for the label, {self.label}, and {name} has one")
        if self.columns[self.time].type != "timestamp":
            raise ValueError(f"time column {self.time} must have type timestamp")
        label = self.columns[self.label]
        if label.type == "category":
            if len(label.values or ()) < 2:
                raise ValueError(f"label column {self.label} needs values: its 2 or more classes")
        elif label.type not in ("integer", "boolean"):
            raise ValueError(
                f"label column {self.label} must have type integer or boolean, 0 or 1, or category"
            )
        if not self.numbers and not self.categories and not self.images:
            raise ValueError("no column is a feature")
        return self

    def _features(self, *types: str) -> tuple[str, ...]:
        return tuple(
            name
            for name, column in self.columns.items()
            if column.feature and column.type in types and name not in (self.label, self.time)
        )

    @property
    def numbers(self) -> tuple[str, ...]:
        """Features that a model reads as numbers, in contract order."""
        return self._features("integer", "number", "boolean")

    @property
    def categories(self) -> tuple[str, ...]:
        """Features that a model reads as categories, in contract order."""
        return self._features("category")

    @property
    def images(self) -> tuple[str, ...]:
        """Features that are pictures, in contract order."""
        return self._features("image")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Raw columns that a prediction needs: the time column, then the features."""
        return (self.time, *self.numbers, *self.categories, *self.images)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the label may be, in the order of a model's probabilities; empty where it is 0 or 1."""
        label = self.columns[self.label]
        return label.values or () if label.type == "category" else ()

    def codes(self, labels: pd.Series) -> np.ndarray:
        """(N,) int64 of a batch's label column: 0 or 1, or the class's place among `classes`.

        Raises ValueError naming a label that is none.
        """
        import numpy as np

        if not self.classes:
            return np.asarray(labels.to_numpy(), dtype=np.int64)
        known = {name: code for code, name in enumerate(self.classes)}
        strange = set(labels.unique()) - known.keys()
        if strange:
            raise ValueError(
                f"{self.label} is {min(map(str, strange))!r}; it must be one of {', '.join(known)}"
            )
        return np.asarray(labels.map(known).to_numpy(), dtype=np.int64)

    def named(self, codes: np.ndarray) -> np.ndarray:
        """The labels that `codes` stand for: (N,) int8 0 or 1, or class names."""
        import numpy as np

        return np.array(self.classes, object)[codes] if self.classes else codes.astype(np.int8)

    @property
    def digest(self) -> str:
        """sha256 of the contract's content, comments and layout left out."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load(path: Path) -> Contract:
    """Raises MissingInput without the file, ParamsError naming key, value and what is allowed."""
    if not path.is_file():
        raise MissingInput(
            f"{path} does not exist. Make a first one with: perennial contract propose {path.stem}; "
            "or, of pictures, by hand as docs/images.md has one"
        )
    file = f"{path.parent.name}/{path.name}"
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ParamsError(explain(error, file)) from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from None
    _refuse_allowances_of_the_label(file, found)
    return found


def parse(text: str) -> Contract:
    return Contract.model_validate_json(json.dumps(yaml.safe_load(text), default=str))


def _refuse_allowances_of_the_label(file: str, contract: Contract) -> None:
    """Not of every Contract: models keep those that they were trained under."""
    label = contract.columns[contract.label]
    if label.nulls or label.new_values or label.outside or label.severity != "critical":
        raise ParamsError(
            f"{file}: columns.{contract.label}: the label column has nulls, new_values, outside or "
            "severity: a row without a label of the contract can be neither learned from nor judged by, "
            f"so its rules hold for every row. Mend it with: edit {file}"
        )
