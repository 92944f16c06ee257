"""How a finding spells an amount."""

from __future__ import annotations


def number(value: float) -> str:
    if not float(value).is_integer() or abs(value) >= 1e15:
        return f"{value:.6g}"
    return f"{int(value):,}" if abs(value) >= 10_000 else f"{int(value)}"


def share(value: float) -> str:
    return f"{100 * value:.4g} %"


def between(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"at least {number(low)}" if low is not None else f"at most {number(high or 0.0)}"
    return f"{number(low)} to {number(high)}"
