"""`tasks.<name>.tune` in params.yaml: where `perennial tune` looks for better settings of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from pydantic import model_validator as check
from pydantic.fields import FieldInfo

from pipelines.settings import Settings
from pipelines.train_params import Train

UNSEARCHED = ("variants", "export", "threads", "checkpoint", "profile", "tensorboard")
Value = bool | int | float | str | None


class Dimension(Settings):
    """Where one setting may lie: `choices`, or from `low` to `high`, both included."""

    choices: tuple[Value, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    """Each tenfold counts as much as any other: for learning rates and the like."""
    step: PositiveFloat | None = None
    """From low on, only every so many; a grid needs it."""

    @check(mode="after")
    def _one_way(self) -> Dimension:
        if self.choices is not None:
            if {self.low, self.high, self.step} != {None} or self.log:
                raise ValueError("give either choices, or low and high with or without log or step")
            if not self.choices or len(set(map(repr, self.choices))) < len(self.choices):
                raise ValueError("choices must be different values, and one at least")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("give choices, or low and high with low below high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log goes with low above 0 and without step")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def named(self) -> tuple[Value, ...]:
        """Every value that is written here."""
        return self.choices if self.choices is not None else self.bounds


class Tune(Settings):
    """`tasks.<name>.tune`."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe learns from the trials before (Bergstra et al. 2011); grid tries every combination once."""
    trials: PositiveInt = 30
    """Trials that count, the present settings' included; those that were killed do not."""
    pruner: Literal["successive_halving", "none"] = "successive_halving"
    """successive_halving stops a trial that is in the lower half of all after 1, 2, 4, ... folds."""
    folds: PositiveInt = 3
    """Times that each trial is fitted, on more and more of the train rows, and judged on the rows
    that follow. With 1, it is judged, and may be stopped, after every epoch instead."""
    outer_folds: PositiveInt = 3
    """Times that the whole of the tuning is judged, with --nested."""
    space: dict[str, Dimension] = Field(default_factory=dict)
    """Keys of `train`, dotted: `network.learning_rate: {low: 0.0003, high: 0.03, log: true}`."""

    @check(mode="after")
    def _of_train(self) -> Tune:
        known = dict(fields())
        for key, dimension in self.space.items():
            if key not in known:
                raise ValueError(f"{key} is not a key of train; allowed are: {', '.join(known)}")
            _allowed(key, known[key], dimension)
        if self.sampler == "grid":
            for key, dimension in self.space.items():
                if dimension.choices is None and dimension.step is None:
                    raise ValueError(f"{key} needs choices or a step to be on a grid")
        return self


def fields(model: type[BaseModel] = Train, above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of training that a search can change: its dotted key and its field. What is made of
    a model that was trained is none, nor what changes no weight, nor what is a list."""
    for name, field in model.model_fields.items():
        if (not above and name in UNSEARCHED) or get_origin(field.annotation) is tuple:
            continue
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{above}{name}.")
        else:
            yield above + name, field


def whole(field: FieldInfo) -> bool:
    """Is it a number without a fraction?"""
    return field.annotation is int


def _allowed(key: str, field: FieldInfo, dimension: Dimension) -> None:
    if dimension.choices is None and field.annotation not in (int, float):
        raise ValueError(f"{key} is not a plain number: it needs choices")
    if whole(field):
        for limit in (dimension.low, dimension.high, dimension.step):
            if limit is not None and limit != int(limit):
                raise ValueError(f"{key} is {limit}: it is a whole number")
    for value in dimension.named:
        number = dimension.choices is None and whole(field)
        try:
            _adapter(field).validate_python(int(value) if number and value is not None else value)
        except ValidationError as error:
            raise ValueError(f"{key} is {value!r}: {error.errors()[0]['msg']}") from None


def _adapter(field: FieldInfo) -> TypeAdapter[Any]:
    kind: Any = field.annotation
    for limit in field.metadata:
        kind = Annotated[kind, limit]
    return TypeAdapter(kind, config=ConfigDict(strict=True))
