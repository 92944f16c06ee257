"""params.yaml -> frozen settings. An unknown key or a value out of range stops before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from pipelines.errors import MissingInput, ParamsError
from pipelines.schedule_params import Schedule
from pipelines.serve_params import Serve
from pipelines.settings import Settings, explain
from pipelines.train_params import Train
from pipelines.tune_params import Tune

Share = Annotated[float, Field(gt=0, lt=1)]
SOURCE_KEYS = {"files": ("path",), "images": ("path",), "idx": ("path", "first", "rows")}
"""What a source of that kind is told, besides; the others know all."""


class Source(Settings):
    """Where batches come from: `tasks.<name>.source`. `flights` and `digits` come with the packages
    installed here, `files` are tables, `images` pictures in a folder a class, `idx` as MNIST is kept.
    """

    kind: Literal["flights", "files", "digits", "images", "idx"]
    path: str | None = None
    """From the project's root. files: a folder or a glob of CSV or Parquet files. images: the folder
    that holds the classes' folders, or the periods' folders that hold those. idx: the file of
    pictures; that of labels lies beside it."""
    first: str | None = None
    """idx only: period of the first batch, since such files tell no time."""
    rows: PositiveInt | None = None
    """idx only: pictures of a batch."""

    @model_validator(mode="after")
    def _keys_go_with_the_kind(self) -> Source:
        needed = SOURCE_KEYS.get(self.kind, ())
        for key in ("path", "first", "rows"):
            given = getattr(self, key) is not None
            if given and key not in needed:
                takes = f"takes {', '.join(needed)}" if needed else "takes no further key"
                raise ValueError(f"kind: {self.kind} {takes}, and not {key}")
            if key in needed and not given:
                raise ValueError(f"kind: {self.kind} needs {', '.join(needed)}; {key} is missing")
        return self


class Window(Settings):
    """The batches that one training uses: `tasks.<name>.window`."""

    first: str
    """Period of the oldest batch, e.g. 2013-01."""
    last: str
    """Period of the newest batch. A retraining moves this, so a retraining is a commit."""
    batches: PositiveInt = 12
    """Most batches a window holds; older ones are left out."""
    validation: Share = 0.2
    """Share of the last batch's rows, before the test rows, for early stopping and threshold."""
    test: Share = 0.3
    """Share of the last batch's rows, its newest, that the gate compares on."""

    @model_validator(mode="after")
    def _in_order(self) -> Window:
        if self.first > self.last:
            raise ValueError(f"first {self.first} is after last {self.last}")
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must leave rows of the last batch")
        return self


class Evaluate(Settings):
    """`tasks.<name>.evaluate`."""

    bootstrap: PositiveInt = 500
    """Resamples behind each interval."""
    slices: tuple[str, ...] = ()
    """Columns whose values are judged one by one; a time column is cut into hours of the day."""
    slice_rows: PositiveInt = 300
    """Fewest rows of a slice that is judged."""


class Gate(Settings):
    """When a challenger replaces the champion: `tasks.<name>.gate`."""

    min_rows: PositiveInt = 1000
    """Fewest rows both are compared on."""
    min_class_rows: PositiveInt = 100
    """Fewest rows of either label among them."""
    min_gain: float = Field(default=0.0, ge=0)
    """AUC the challenger must gain at least; the interval's lower end must be above it."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """One-sided confidence of the paired bootstrap."""
    bootstrap: PositiveInt = 1000
    baseline_gain: float = Field(default=0.0, ge=0)
    """AUC that a promoted model must be better than the naive baseline, and more. The rate by hour
    of day is no weak rival: in hard weeks a good model of the flights is .002 above it."""
    max_auc: float = Field(default=0.98, gt=0, le=1)
    """AUC above which a model is too good to be true: a label has leaked into a feature."""
    max_jump: PositiveFloat = 0.15
    """AUC above the challenger's own validation AUC that is too good to be true: test rows have
    leaked into training. The parts of one month of flights differ by .05 (standard deviation)."""
    slice_drop: PositiveFloat = 0.05
    """Largest AUC loss against the champion that a slice may show with confidence, which is that
    of all slices together."""
    calibration: PositiveFloat = 0.2
    """Largest expected calibration error (10 equal-count bins), unless the champion's is larger.
    The last nine days of a month of flights are late more or less often than all before: a good
    model's error went up to .16."""
    latency_ms: PositiveFloat = 50.0
    """Largest median time of one answer."""
    size_mb: PositiveFloat = 200.0


class Monitor(Settings):
    """When a batch raises an alarm: `tasks.<name>.monitor`. Measured rates: docs/monitoring.md."""

    p_value: Share = 0.01
    """Family-wise p-value at which a column may have moved: the false-alarm rate of all columns
    together where nothing moved."""
    effect: PositiveFloat = 0.15
    """And it must have moved this far at least (standard deviations, or total variation), and
    further than any stretch of the training window stands from the rest of it. On the flights .1
    alarms at the slow turnover of the fleet."""
    drifted_columns: PositiveInt = 1
    """Columns drifted together that raise an alarm."""
    joint_auc: Share = 0.7
    """AUC of the domain classifier that raises an alarm, unless the training window's own
    stretches are told apart as well; .5 = alike, .76 = one standard deviation apart."""
    auc_drop: PositiveFloat = 0.1
    """Fall of the label-joined AUC below what it was when the champion was made that raises an
    alarm, when the whole interval lies below. Nine days of one fresh model on the flights differ
    by .07 (standard deviation), so a smaller fall is no evidence."""
    auc_gain: PositiveFloat = 0.02
    """AUC that the new labels can teach a small model beyond the champion's answers that raises an
    alarm, when the whole interval lies above zero."""
    sample: PositiveInt = 5000
    """Rows of the batch that p-values, classifier and pages read; distances read every row."""


class Policy(Settings):
    """From alarms to retrainings: `tasks.<name>.policy`."""

    alarms: PositiveInt = 1
    """Alarms among the last `of` batches, none older than the last retraining, that make one."""
    of: PositiveInt = 1
    cooldown: NonNegativeInt = 1
    """Batches to rest after a retraining that made a new champion. With labels one batch late, 1
    is as long as it takes until an answer of the new champion can be judged."""
    budget: PositiveInt = 4
    """Most retrainings among the last `budget_batches` batches, held challengers included."""
    budget_batches: PositiveInt = 12
    min_labels: PositiveInt = 2000
    """Labelled rows that must have arrived since the last training."""

    @model_validator(mode="after")
    def _alarms_fit(self) -> Policy:
        if self.alarms > self.of:
            raise ValueError(f"alarms {self.alarms} of the last {self.of} batches can never be")
        return self


class Task(Settings):
    """One thing to predict: `tasks.<name>`. What has no default here is watched by dvc.yaml, and DVC
    wants the keys that it watches written out.
    """

    kind: Literal["tabular", "image"] = "tabular"
    source: Source
    period: Literal["hour", "day", "week", "month"]
    """Length of one batch; names are 2013-04, 2013-W14, 2013-04-01, 2013-04-01T09. A tick that is told no
    batch reads them as UTC, and takes none that goes on."""
    label_delay: PositiveInt = 1
    """Batches that pass before a batch's labels are known."""
    calendar: tuple[Literal["hour", "weekday"], ...]
    """Features made from the time column, inside the model's own graph."""
    min_category: PositiveInt
    """Rows of train below which a category is pooled with the unseen ones."""
    window: Window
    train: Train
    evaluate: Evaluate
    gate: Gate = Gate()
    monitor: Monitor = Monitor()
    policy: Policy = Policy()
    serve: Serve = Serve()
    schedule: Schedule = Schedule()
    tune: Tune = Tune()


class Params(Settings):
    tasks: dict[str, Task]


def load(path: Path) -> Params:
    """Raises MissingInput without the file, ParamsError naming the key, value and what is allowed."""
    if not path.is_file():
        raise MissingInput(
            f"{path} does not exist. Run this inside the project's folder, or name it with: "
            "export PERENNIAL_ROOT=<folder>"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Params.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise ParamsError(explain(error, path.name, Params)) from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from None


def task(path: Path, name: str) -> Task:
    params = load(path)
    if name not in params.tasks:
        raise ParamsError(
            f"{path.name}: there is no task {name!r}; tasks are: {', '.join(params.tasks)}. "
            f"Add one with: perennial contract propose {name} --help"
        )
    return params.tasks[name]
