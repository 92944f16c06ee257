"""Why a request was refused: every mistake in it, found the slow way.

The fast way (msgspec, in C) stops at its first mistake and names it in its own words. Here the
body is parsed without types and each value is held to its field, by the very same types.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from pipelines.wire import problem
from pipelines.wire.problem import Mistake, Refused
from pipelines.wire.schema import Shape, exceeds

MOST_COUNTED = 1_000
"""Mistakes after which the count ends: a wrong file of 10,000 rows is not walked to its end."""
GZIP = b"\x1f\x8b"
WRAPPED = 'the rows in a list: {"rows": [{...}]}'
_DIGITS = 400
"""Whole numbers of more digits are infinite as floats; Python reads none above 4,300 digits."""


def refusal(shape: Shape, body: bytes) -> Refused:
    """For a body that the fast way has refused."""
    try:
        content = _untyped(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        why = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        return problem.refused("unreadable", f"The body is not JSON in UTF-8: {why}.{_hint(body)}")
    mistakes = list(islice(mistakes_in(shape, content), MOST_COUNTED))
    if not mistakes:
        # A name given twice: only the last value is left here, the fast way has seen each.
        rule = "each field once"
        mistakes = [Mistake("rows", rule, f"a field is given twice, once wrong; allowed: {rule}")]
    return problem.refused_rows(mistakes)


def _hint(body: bytes) -> str:
    if body.startswith(GZIP):
        return " It is compressed, which is not taken: send it as it is."
    if b"NaN" in body or b"Infinity" in body:
        return " NaN and Infinity are no JSON: send null where a value is missing."
    return ""


def _untyped(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError:
        # JSON, but with a number like 1e999 that no float holds: read it as infinity.
        content = json.loads(body.decode(), parse_int=_whole)
        # Half of a surrogate pair, which json lets through and no answer can repeat: a ValueError.
        json.dumps(content, ensure_ascii=False).encode()
        return content


def _whole(digits: str) -> float | int:
    if len(digits) <= _DIGITS:
        return int(digits)
    return -math.inf if digits.startswith("-") else math.inf


def mistakes_in(shape: Shape, content: object) -> Iterator[Mistake]:
    """content: a request as JSON gives it, without types. Nothing comes where all is allowed."""
    if not isinstance(content, dict):
        yield problem.wrong("the request", content, 'an object {"rows": [...]}')
        return
    if "rows" not in content and content.keys() & shape.by_name.keys():
        # One mistake, not one for each field of the row.
        yield Mistake("rows", WRAPPED, f"this is a row alone; send {WRAPPED}")
        return
    yield from (
        _unknown(name, value, ["rows"]) for name, value in content.items() if name != "rows"
    )
    allowed = f"1 to {shape.max_rows:,} rows, each an object"
    if "rows" not in content:
        yield problem.missing("rows", allowed)
        return
    rows = content["rows"]
    if not isinstance(rows, list) or not 1 <= len(rows) <= shape.max_rows:
        yield problem.wrong("rows", rows, allowed)
        return
    for number, row in enumerate(rows):
        yield from _in_row(shape, f"rows[{number}]", row)


def _in_row(shape: Shape, where: str, row: object) -> Iterator[Mistake]:
    try:
        read = msgspec.convert(shape.renamed(row), shape.row)
    except msgspec.ValidationError:
        read = None
    if read is not None and shape.consistent([read]):
        return
    if not isinstance(row, dict):
        yield problem.wrong(where, row, f"an object with the fields {', '.join(shape.by_name)}")
        return
    for field in shape.fields:
        if field.name in row:
            if not field.allows(row[field.name]):
                yield problem.wrong(f"{where}.{field.name}", row[field.name], field.allowed)
        elif field.required:
            yield problem.missing(f"{where}.{field.name}", field.allowed)
    for name, value in row.items():
        if name not in shape.by_name:
            yield _unknown(f"{where}.{name}", value, list(shape.by_name))
    for field, other, both in shape.pairs if read is not None else ():
        value, limit = both(read)
        if exceeds(value, limit):
            allowed = f"at most {other.name} of the same row, {limit}"
            yield problem.wrong(f"{where}.{field.name}", value, allowed)


def _unknown(where: str, value: object, known: list[str]) -> Mistake:
    allowed = f"the fields {', '.join(known)}" if len(known) > 1 else f"the field {known[0]}"
    where = str(problem.shown(where))
    message = f"{where} is not a known field; allowed: {allowed}"
    return Mistake(where, allowed, message, problem.shown(value))
