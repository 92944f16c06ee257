"""What travels between the steps. Frozen; the ones that are kept as files round-trip as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np


class Record(BaseModel):
    """A record kept as a file: `model_dump_json` and `model_validate_json` are inverse."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True)
class Rows:
    """Encoded rows in time order, as a model is fitted on them.

    numbers (N, P) float32, standardised with train statistics, NaN where missing;
    codes (N, C) int64, 0 = missing, rare or never seen in train; label (N,) int8, 0 or 1;
    time (N,) int64, epoch seconds of the task's own clock.
    """

    numbers: np.ndarray
    codes: np.ndarray
    label: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def take(self, part: slice | np.ndarray) -> Rows:
        return Rows(self.numbers[part], self.codes[part], self.label[part], self.time[part])


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures in time order, as a model is fitted on them.

    pixels (N, H, W, C) uint8; label (N,) int64, the class's place among the contract's classes;
    time (N,) int64, epoch seconds of the task's own clock.
    """

    pixels: np.ndarray
    label: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def take(self, part: slice | np.ndarray) -> Pictures:
        return Pictures(self.pixels[part], self.label[part], self.time[part])


@dataclass(frozen=True)
class Scores:
    """One model's answers to labelled rows: what the gate compares.

    key (N,) uint64 names the row (the same row has the same key for every model);
    time (N,) int64 epoch seconds; label (N,) int; probability (N,) float, or (N, K) of each class;
    slices: name -> (N,) array of the slice each row belongs to.
    """

    version: str
    artifact: str
    """Digest of the artifact that answered."""
    trained_until: int
    """Newest row, in epoch seconds, that fitting, early stopping or the threshold has seen."""
    key: np.ndarray
    time: np.ndarray
    label: np.ndarray
    probability: np.ndarray
    threshold: float
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    latency_ms: float = 0.0
    """Median time of one single-row answer."""
    size_bytes: int = 0


class Check(Record):
    """One question the gate asked, with its answer."""

    name: str
    passed: bool
    value: float | None = None
    limit: float | None = None
    reason: str


class Verdict(Record):
    """What the gate says of a challenger."""

    task: str
    challenger: str
    champion: str | None
    decision: Literal["promote", "hold"]
    checks: tuple[Check, ...]
    rows: int = 0
    rows_digest: str = ""
    metrics: dict[str, float] = {}
    """champion_auc, challenger_auc, baseline_auc, difference, low, high and the like."""

    @property
    def reason(self) -> str:
        """The first failed check; or what proved the challenger better, a first model the baseline."""
        telling = [c for c in self.checks if not c.passed] or [
            c for name in ("better", "baseline") for c in self.checks if c.name == name
        ]
        return telling[0].reason if telling else ""


class ColumnDrift(Record):
    """How far one column of a batch stands from the champion's training data."""

    column: str
    effect: float
    """Shift in reference standard deviations (numbers) or total variation 0..1 (categories)."""
    floor: float
    p_value: float
    """Permutation p-value, already corrected for the number of columns."""
    drifted: bool


class Performance(Record):
    """Label-joined quality of the champion's answers to one batch."""

    period: str
    rows: int
    auc: float
    low: float
    high: float
    expected: float
    """AUC on rows that the champion was not fitted on, when it was made."""
    learnable: float | None = None
    """AUC that a small model reaches from the champion's answers, the inputs and these labels, on
    days held out. Above `auc`, the labels teach what the champion does not know."""
    learnable_low: float | None = None
    """Lower end of the interval of learnable - auc."""
    degraded: bool


class Alarm(Record):
    """What the monitor and the policy say of a batch."""

    task: str
    period: str
    champion: str
    rows: int
    columns: tuple[ColumnDrift, ...]
    joint_auc: float | None = None
    """AUC, on blocks of time held out, of a classifier that tells the batch from the reference;
    .5 or below = alike."""
    joint_floor: float | None = None
    """AUC from which the batch counts as unlike the reference."""
    joint_drifted: bool = False
    performance: Performance | None = None
    raised: bool
    """The monitor's own finding, before the policy weighs it."""
    reasons: tuple[str, ...]


class Decision(Record):
    """The policy's answer to an alarm."""

    task: str
    period: str
    action: Literal["retrain", "rest"]
    reasons: tuple[str, ...]


class Due(Record):
    """A retraining that is called for and has had no verdict yet."""

    task: str
    period: str
    """The newest batch that calls for it; its verdict is filed under this."""
    last: str
    """Newest batch whose labels are known: where the window will end."""
    reasons: tuple[str, ...]


class Retraining(Record):
    """A training of the loop that was done: its batches count as seen from now on."""

    task: str
    period: str
    first: str
    last: str
    reasons: tuple[str, ...]
    commit: str | None
    """Of params.yaml and dvc.lock; None for one made in a folder beside them, as `tick` does."""


class DataHash(Record):
    """One batch that a training read: the md5 is DVC's own hash of the file."""

    period: str
    md5: str
    rows: int
    validation: str
    """Digest of the validation result that let it through."""


class Finding(Record):
    """One rule of the contract held against one batch."""

    rule: str
    column: str | None
    severity: Literal["critical", "warning"]
    passed: bool
    crashed: bool = False
    """The check itself raised: counts as critical, whatever its severity."""
    observed: str = ""
    allowed: str = ""
    message: str = ""

    @property
    def stops(self) -> bool:
        """Does this keep the batch out? A check that raised always does."""
        return not self.passed and (self.crashed or self.severity == "critical")


class Validation(Record):
    """What the gate at the door said of one batch: kept as `2_valid/<task>/<period>.json`."""

    task: str
    period: str
    content: str
    """md5 of the batch's file."""
    contract: str
    """Digest of the contract."""
    rows: int
    accepted: bool
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if not f.passed)
