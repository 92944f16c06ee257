"""What stands in an example where a real row has a person's value: nobody's, and right all the same."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from pipelines import images
from pipelines.wire.field import Field

TEXT = "made up"


def value(field: Field) -> Any:
    """As JSON has it: the first that the contract lists, its smallest, or one that says what it is."""
    column = field.column
    match column.type:
        case "category":
            nothing = None if field.values == () else TEXT
            return column.values[0] if column.values else nothing
        case "boolean":
            return False
        case "timestamp":
            first = max(0, field.hours[0]) if field.hours else 0
            return f"2000-01-01T{first:02}:00:00"
        case "image":
            assert column.size is not None
            assert column.mode is not None
            black = np.zeros((*column.size, images.CHANNELS[column.mode]), np.uint8)
            return base64.b64encode(images.png(black)).decode()
        case "integer":
            return int(_within(field, math.ceil(column.min or 0)))
    return float(_within(field, column.min or 0))


def _within(field: Field, number: float) -> float:
    return min(max(number, field.low), field.high)
