"""`tasks.<name>.train.variants` in params.yaml: smaller makings of the trained model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, field_validator

from pipelines.settings import Settings

Variant = Literal["fp16", "int8_dynamic", "int8_static", "pruned"]
Export = Literal["torchscript", "torch_export"]
"""Files in the model's folder for those who serve PyTorch themselves: `tasks.<name>.train.export`."""
SUFFIX: dict[Export, str] = {"torchscript": ".torchscript.pt", "torch_export": ".pt2"}
"""Behind the task's name."""


class Variants(Settings):
    """When another making of the model serves in its place. What each is: docs/variants.md."""

    make: tuple[Variant, ...] = ()
    """Tried in this order, and the first that keeps within the limits serves; none: the model as it
    was trained. So what serves hangs on limits, and on no race of stopwatches."""
    prune: float = Field(default=0.3, gt=0, lt=1)
    """pruned only: share of each layer's weights, the smallest, that become 0."""
    calibration_rows: PositiveInt = 1024
    """int8_static only: rows that show how large the numbers between the layers become."""
    max_auc_loss: float = Field(default=0.001, ge=0)
    """AUC that the variant may lose against the model as trained, on the same test rows."""
    max_log_loss_rise: float = Field(default=0.001, ge=0)
    max_parity: float = Field(default=0.05, ge=0)
    """Largest difference of one answer. In int8 the flights network differs by .007, a small
    convolutional one by .05 to .15."""
    min_gain: float = Field(default=1.2, ge=1)
    """Times that the variant must be smaller (zipped) or faster (one row, or 256 rows)."""
    max_slowdown: float = Field(default=1.5, ge=1)
    """Times the original's latency that a variant may take where it is slower."""

    @field_validator("make")
    @classmethod
    def _once_each(cls, make: tuple[Variant, ...]) -> tuple[Variant, ...]:
        if len(set(make)) < len(make):
            raise ValueError("a variant is named twice")
        return make
