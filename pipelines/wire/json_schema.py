"""A row in JSON Schema: allows exactly what the reader takes, and forbids what it refuses.

Three rules have no words there: a column that never exceeds another one of its row, and what a
picture is, which the field's description tells; and names given twice.
"""

from __future__ import annotations

from typing import Any

from pipelines.contract import Contract
from pipelines.wire.field import FIRST, LAST, TEXT, Field
from pipelines.wire.schema import fields_of


def row_schema(contract: Contract) -> dict[str, Any]:
    fields = fields_of(contract)
    return {
        "type": "object",
        "properties": {field.name: _value_schema(field) for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }


def _value_schema(field: Field) -> dict[str, Any]:
    """What one value may be: the same limits as the reader's."""
    schema = _present(field)
    if field.nullable:
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        schema["type"] = [schema["type"], "null"]
    column = field.column
    said = [column.description] if column.description else []
    said += [f"Unit: {column.unit}."] if column.unit else []
    said += [f"{field.allowed[0].upper()}{field.allowed[1:]}."] if column.type == "image" else []
    said += [f"Never above `{field.at_most}` of the same row."] if field.at_most else []
    said += [] if field.required else ["Names the row: its label is then found by it. Optional."]
    return schema | ({"description": " ".join(said)} if said else {})


def _present(field: Field) -> dict[str, Any]:
    match field.column.type:
        case "timestamp":
            return {"type": "string", "pattern": _time_pattern(field)}
        case "boolean":
            return {"type": "boolean"}
        case "image":
            return {"type": "string", "minLength": 1, "contentEncoding": "base64"}
        case "integer" | "number" as kind:
            return {"type": kind, "minimum": field.low, "maximum": field.high}
    if field.values is None:
        return {"type": "string", "maxLength": TEXT}
    if not field.values:  # none is let in, and an empty list is no schema
        return {"type": "string", "minLength": 1, "maxLength": 0}
    return {"type": "string", "enum": list(field.values)}


def _time_pattern(field: Field) -> str:
    """ISO 8601 without an offset, real days only. `(?!\\n)`: `$` of some languages lets one follow."""
    assert (FIRST.year, LAST.year) == (1700, 2199), "the pattern spells these years"
    year = "(?:1[7-9]|2[01])[0-9]{2}"
    leap = "(?:(?:1[7-9]|2[01])(?:0[48]|[2468][048]|[13579][26])|2000)"
    days = (
        f"{year}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
        "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    )
    first, last = field.hours or (0, 23)
    # Hours that no clock shows are a contract that lets no row in.
    hours = "|".join(f"{hour:02}" for hour in range(max(first, 0), min(last, 23) + 1)) or "[]"
    clock = f"(?:{hours}):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]+)?"
    return f"^(?:{days}|{leap}-02-29)[Tt ]{clock}(?!\\n)$"
