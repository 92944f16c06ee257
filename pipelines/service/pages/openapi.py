"""The service as OpenAPI 3.1, from the contract: what it says is allowed is exactly what is answered.

One rule has no words in JSON Schema: a column that never exceeds another one of its row. A request
that breaks it is answered 422, and the field's description says so.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from pipelines.artifact import About
from pipelines.contract import Contract
from pipelines.serve_params import Serve
from pipelines.wire.bulk import CONTENT_TYPES
from pipelines.wire.json_schema import row_schema
from pipelines.wire.problem import KINDS, MEDIA

JSON = "application/json"
MOST_LABELS = 100_000
"""Labels in one request."""
LONGEST_ID = 300
"""Characters of a prediction id."""


def document(
    contract: Contract, about: About | None, example_row: Mapping[str, Any] | None, serve: Serve
) -> dict[str, Any]:
    """about, example_row: of the model that answers now; None before there is one."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{contract.task}: predictions",
            "version": "1",
            "description": _description(contract, about),
        },
        "security": [{"bearer": []}, {"key": []}, {}],
        "paths": {
            "/predict": {"post": _predict(contract, example_row, serve)},
            "/labels": {"post": _labels(contract)},
            "/model": {"get": _model()},
            "/livez": {"get": _health("live", "The process runs")},
            "/readyz": {"get": _health("ready", "A model is loaded and answers")},
            "/metrics": {"get": _metrics()},
        },
        "components": {
            "schemas": schemas(contract, serve.max_rows),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _description(contract: Contract, about: About | None) -> str:
    said = [contract.description.strip(), _label_words(contract)]
    if about:
        until = dt.datetime.fromtimestamp(about.trained_until, dt.UTC)
        said.append(
            f"The model that answers ({about.family}) has seen rows up to {until:%Y-%m-%d %H:%M}; "
            f"{100 * about.baseline_rate:.1f} % of its training rows had label 1. From a "
            f"probability of {about.threshold:.3f} on, the prediction is 1."
        )
    return "\n\n".join(part for part in said if part)


def _label_words(contract: Contract) -> str:
    meaning = contract.columns[contract.label].description
    return f"Predicted is `{contract.label}`, 0 or 1. {meaning}".strip()


def schemas(contract: Contract, max_rows: int) -> dict[str, Any]:
    return {
        "Row": row_schema(contract),
        "Request": _closed({"rows": _list(_ref("Row"), max_rows)}),
        "Answer": _closed(
            {
                "model": {"const": contract.task},
                "version": {"type": "string", "description": "Version of the model that answered."},
                "predictions": _list(_ref("Prediction"), max_rows),
            }
        ),
        "Prediction": _closed(
            {
                "id": {
                    "type": "string",
                    "description": "Names this answer; a label that comes later is sent with it.",
                },
                "probability": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": 1,
                    "description": f"Of {contract.label} being 1.",
                },
                "prediction": {"type": "integer", "enum": [0, 1]},
            }
        ),
        "Labels": _closed({"labels": _list(_ref("Label"), MOST_LABELS)}),
        "Label": _closed(
            {
                "id": {"type": "string", "minLength": 1, "maxLength": LONGEST_ID},
                "label": {"type": "integer", "enum": [0, 1]},
            }
        ),
        "Counted": _closed(
            {
                "accepted": _count("New, and stored."),
                "repeated": _count("Known already, with the same label."),
                "conflicting": _count("Known already with the other label, which stays."),
                "unknown": _count("No answer has this id."),
            }
        ),
        "Problem": _problem(),
    }


def _predict(contract: Contract, example: Mapping[str, Any] | None, serve: Serve) -> dict[str, Any]:
    request: dict[str, Any] = {"schema": _ref("Request")}
    if example is not None:
        request["example"] = {"rows": [dict(example)]}
    bulk = {
        media: {"schema": {"type": "string", "format": "binary"}}
        for media in CONTENT_TYPES.values()
    }
    return {
        "operationId": "predict",
        "summary": f"Predict {contract.label} for one row or many",
        "description": f"At most {serve.max_rows:,} rows and {serve.max_mb:g} MB. Tables (an Arrow "
        "stream or a Parquet file) have the fields as columns, times as timestamps without a zone, "
        "and are answered with an Arrow stream: id, probability, prediction, version. The same "
        "`x-route-key` always goes to the same model while two answer.",
        "parameters": [
            {"name": "x-route-key", "in": "header", "required": False, "schema": {"type": "string"}}
        ],
        "requestBody": {"required": True, "content": {JSON: request, **bulk}},
        "responses": {
            "200": {
                "description": "An answer for each row, in their order",
                "headers": {"x-model-version": _header("string", "The version that answered")},
                "content": {JSON: {"schema": _ref("Answer")}, CONTENT_TYPES["arrow"]: {}},
            },
            **_refusals(400, 401, 413, 415, 422, 429, 500, 503),
        },
    }


def _labels(contract: Contract) -> dict[str, Any]:
    example = {"labels": [{"id": f"{contract.task}-1-20130401-00c0ffee-0", "label": 1}]}
    return {
        "operationId": "labels",
        "summary": "Tell what came true, by prediction id",
        "description": "Late, repeated and unknown labels are counted and do no harm; of two that "
        f"differ, the first stays. At most {MOST_LABELS:,} at a time.",
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _ref("Labels"), "example": example}},
        },
        "responses": {
            "200": {
                "description": "How many were of which sort",
                "content": {JSON: {"schema": _ref("Counted")}},
            },
            **_refusals(400, 401, 413, 415, 422, 500),
        },
    }


def _model() -> dict[str, Any]:
    return {
        "operationId": "model",
        "summary": "Which version answers, since when, and why",
        "responses": {
            "200": {"description": "The state", "content": {JSON: {"schema": {"type": "object"}}}},
            **_refusals(401, 500),
        },
    }


def _health(name: str, said: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": said,
        "security": [{}],
        "responses": {"200": {"description": said}, "503": {"description": f"Not: {said}"}},
    }


def _metrics() -> dict[str, Any]:
    return {
        "operationId": "metrics",
        "summary": "Counters and gauges for Prometheus",
        "responses": {
            "200": {
                "description": "Prometheus text",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **_refusals(401),
        },
    }


def _refusals(*statuses: int) -> dict[str, Any]:
    """Each status with what it may mean here."""
    content = {MEDIA: {"schema": _ref("Problem")}}
    found = {}
    for status in statuses:
        titles = [title for of, title in KINDS.values() if of == status]
        found[str(status)] = {"description": ". ".join(titles), "content": content}
        if status in (429, 503):
            found[str(status)]["headers"] = {"retry-after": _header("string", "Seconds to wait")}
    return found


def _problem() -> dict[str, Any]:
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
            "more": _count("Mistakes beyond those that `errors` tells."),
        },
        "required": ["type", "title", "status", "detail"],
    }


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    """An object with all of these properties and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def _count(said: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "description": said}


def _header(kind: str, said: str) -> dict[str, Any]:
    return {"description": said, "schema": {"type": kind}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
