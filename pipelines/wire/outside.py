"""Rows that are answered although they lie outside the contract's limits, counted by column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipelines.contract import Column, Contract
from pipelines.wire.field import FLOAT32, Field

Feeds = Mapping[str, np.ndarray]
Rule = Callable[[Feeds], Any]
"""Feeds -> (N,) bool, which rows lie outside; or one False for all."""


def rules(contract: Contract, fields: tuple[Field, ...]) -> dict[str, tuple[Rule, ...]]:
    """Column -> the rules that its rows may break and be answered all the same.

    Of the inputs only. A gap counts where the contract allows none and only warns of them; where
    it allows a share of gaps, a gap is what a row may hold. Limits are compared as float32.
    """
    found = {}
    for field in fields:
        if field.required and (some := tuple(_rules(field, contract))):
            found[field.name] = some
    return found


def counts(found: Mapping[str, tuple[Rule, ...]], feeds: Feeds) -> dict[str, int]:
    """Column -> rows outside; only columns with such rows."""
    counted = {}
    for name, (first, *others) in found.items():
        outside = first(feeds)
        for rule in others:
            outside = outside | rule(feeds)
        if number := int(np.count_nonzero(outside)):
            counted[name] = number
    return counted


def _rules(field: Field, contract: Contract) -> list[Rule]:
    column, name = field.column, field.name
    some: list[Rule] = []
    if column.type == "image":
        return some
    if field.nullable and not column.nulls:
        some.append(_missing_text(name) if column.type == "category" else _missing(name))
    if column.min is not None and column.min > field.low:
        some.append(_below(name, _as_float32(column.min)))
    if column.max is not None and column.max < field.high:
        some.append(_above(name, _as_float32(column.max)))
    if column.hours and not field.hours:
        some.append(_at_other_hours(name, *column.hours))
    if column.values is not None and field.values is None:
        some.append(_unknown(name, column))
    if column.at_most in contract.inputs and not field.at_most:
        some.append(_exceeding(name, column.at_most))
    return some


def _as_float32(limit: float) -> np.float32:
    return np.float32(np.clip(limit, -FLOAT32, FLOAT32))


def _missing(name: str) -> Rule:
    return lambda feeds: np.isnan(feeds[name])


def _missing_text(name: str) -> Rule:
    return lambda feeds: feeds[name] == ""


def _below(name: str, low: np.float32) -> Rule:
    return lambda feeds: feeds[name] < low


def _above(name: str, high: np.float32) -> Rule:
    return lambda feeds: feeds[name] > high


def _at_other_hours(name: str, first: int, last: int) -> Rule:
    def outside(feeds: Feeds) -> Any:
        hour = feeds[name] // 3600 % 24
        return (hour < first) | (hour > last)

    return outside


def _unknown(name: str, column: Column) -> Rule:
    known = frozenset((*(column.values or ()), ""))

    def outside(feeds: Feeds) -> Any:
        values = feeds[name].tolist()
        if known.issuperset(values):
            return False
        return np.array([value not in known for value in values])

    return outside


def _exceeding(name: str, other: str) -> Rule:
    return lambda feeds: feeds[name] > feeds[other]
