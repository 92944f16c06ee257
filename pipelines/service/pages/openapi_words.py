"""The words that the OpenAPI document is made of."""

from __future__ import annotations

from typing import Any

from pipelines.wire.problem import KINDS, MEDIA


def refusals(*statuses: int) -> dict[str, Any]:
    """Each status with what it may mean here."""
    content = {MEDIA: {"schema": ref("Problem")}}
    found = {}
    for status in statuses:
        titles = [title for of, title in KINDS.values() if of == status]
        found[str(status)] = {"description": ". ".join(titles), "content": content}
        if status in (429, 503):
            found[str(status)]["headers"] = {"retry-after": header("string", "Seconds to wait")}
    return found


def problem() -> dict[str, Any]:
    text = {"type": "string"}
    mistake = {
        "type": "object",
        "properties": {"field": text, "value": {}, "allowed": text, "message": text},
        "required": ["field", "allowed", "message"],
    }
    return {
        "type": "object",
        "description": "Problem details, RFC 9457",
        "properties": {
            "type": {"enum": [f"/problems/{kind}" for kind in KINDS]},
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "errors": {"type": "array", "items": mistake},
            "more": count(
                "Mistakes beyond those that `errors` tells, at least: of JSON 1,000 are counted."
            ),
        },
        "required": ["type", "title", "status", "detail"],
    }


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    """An object with all of these properties and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def list_of(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def count(said: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "description": said}


def header(kind: str, said: str) -> dict[str, Any]:
    return {"description": said, "schema": {"type": kind}}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
