"""The service as OpenAPI 3.1, from the contract: what it says is allowed is exactly what is answered.

Three rules have no words in JSON Schema: a column that never exceeds another one of its row, and what a
picture is, which the field's description tells; and names given twice. A request that breaks one is
answered 422.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from pipelines.artifact import About
from pipelines.contract import Contract
from pipelines.serve_params import Serve
from pipelines.service.pages.openapi_words import (
    closed,
    count,
    header,
    list_of,
    problem,
    ref,
    refusals,
)
from pipelines.wire.bulk import CONTENT_TYPES
from pipelines.wire.json_schema import row_schema
from pipelines.wire.schema import pictures_at_once

JSON = "application/json"
MOST_LABELS = 100_000
"""Labels in one request."""
LONGEST_ID = 300
"""Characters of a prediction id."""


def document(
    contract: Contract, about: About | None, example_row: Mapping[str, Any] | None, serve: Serve
) -> dict[str, Any]:
    """about, example_row: of the model that answers now; None before there is one."""
    most = min(serve.max_rows, pictures_at_once(contract))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{contract.task}: predictions",
            "version": "1",
            "description": _description(contract, about),
        },
        "security": [{"bearer": []}, {"key": []}, {}],
        "paths": {
            "/predict": {"post": _predict(contract, example_row, most, serve.max_mb)},
            "/labels": {"post": _labels(contract)},
            "/model": {"get": _model()},
            "/livez": {"get": _health("live", "The process runs")},
            "/readyz": {"get": _health("ready", "A model is loaded and answers")},
            "/metrics": {"get": _metrics()},
        },
        "components": {
            "schemas": schemas(contract, most),
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
            + (
                "the prediction is the likeliest class."
                if contract.classes
                else f"{100 * about.baseline_rate:.1f} % of its training rows had label 1. From a "
                f"probability of {about.threshold:.3f} on, the prediction is 1."
            )
        )
    return "\n\n".join(part for part in said if part)


def _label_words(contract: Contract) -> str:
    meaning = contract.columns[contract.label].description
    known = f"one of {', '.join(contract.classes)}" if contract.classes else "0 or 1"
    return f"Predicted is `{contract.label}`, {known}. {meaning}".strip()


def _label(contract: Contract) -> dict[str, Any]:
    if contract.classes:
        return {"type": "string", "enum": list(contract.classes)}
    return {"type": "integer", "enum": [0, 1]}


def _probability(of: str) -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "maximum": 1, "description": of}


def _of_classes(contract: Contract) -> dict[str, Any]:
    """What an answer says more where there are classes."""
    if not contract.classes:
        return {}
    each = {name: _probability(f"Of {contract.label} being {name}.") for name in contract.classes}
    return {"probabilities": closed(each)}


def schemas(contract: Contract, max_rows: int) -> dict[str, Any]:
    return {
        "Row": row_schema(contract),
        "Request": closed({"rows": list_of(ref("Row"), max_rows)}),
        "Answer": closed(
            {
                "model": {"const": contract.task},
                "version": {"type": "string", "description": "Version of the model that answered."},
                "predictions": list_of(ref("Prediction"), max_rows),
            }
        ),
        "Prediction": closed(
            {
                "id": {
                    "type": "string",
                    "description": "Names this answer; a label that comes later is sent with it.",
                },
                "probability": _probability(
                    "Of the prediction being right."
                    if contract.classes
                    else f"Of {contract.label} being 1."
                ),
                "prediction": _label(contract),
                **_of_classes(contract),
            }
        ),
        "Labels": closed({"labels": list_of(ref("Label"), MOST_LABELS)}),
        "Label": closed(
            {
                "id": {"type": "string", "minLength": 1, "maxLength": LONGEST_ID},
                "label": _label(contract),
            }
        ),
        "Counted": closed(
            {
                "accepted": count("New, and stored."),
                "repeated": count("Known already, with the same label."),
                "conflicting": count("Known already with the other label, which stays."),
                "unknown": count("No answer has this id."),
            }
        ),
        "Problem": problem(),
    }


def _predict(
    contract: Contract, example: Mapping[str, Any] | None, max_rows: int, max_mb: float
) -> dict[str, Any]:
    request: dict[str, Any] = {"schema": ref("Request")}
    of_each = ("probabilities",) if contract.classes else ()
    answered = ("id", "probability", "prediction", *of_each, "version")
    if example is not None:
        request["example"] = {"rows": [dict(example)]}
    bulk = {
        media: {"schema": {"type": "string", "format": "binary"}}
        for media in CONTENT_TYPES.values()
    }
    return {
        "operationId": "predict",
        "summary": f"Predict {contract.label} for one row or many",
        "description": f"At most {max_rows:,} rows and {max_mb:g} MB. Tables (an Arrow "
        "stream or a Parquet file) have the fields as columns, times as timestamps without a zone, "
        f"and are answered with an Arrow stream: {', '.join(answered)}. The same "
        "`x-route-key` always goes to the same model while two answer.",
        "parameters": [
            {"name": "x-route-key", "in": "header", "required": False, "schema": {"type": "string"}}
        ],
        "requestBody": {"required": True, "content": {JSON: request, **bulk}},
        "responses": {
            "200": {
                "description": "An answer for each row, in their order",
                "headers": {"x-model-version": header("string", "The version that answered")},
                "content": {JSON: {"schema": ref("Answer")}, CONTENT_TYPES["arrow"]: {}},
            },
            **refusals(400, 401, 408, 413, 415, 422, 429, 500, 503),
        },
    }


def _labels(contract: Contract) -> dict[str, Any]:
    label = contract.classes[0] if contract.classes else 1
    example = {"labels": [{"id": f"{contract.task}-1-20130401-00c0ffee-0", "label": label}]}
    return {
        "operationId": "labels",
        "summary": "Tell what came true, by prediction id",
        "description": "Late, repeated and unknown labels are counted and do no harm; of two that "
        f"differ, the first stays. At most {MOST_LABELS:,} at a time.",
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": ref("Labels"), "example": example}},
        },
        "responses": {
            "200": {
                "description": "How many were of which sort",
                "content": {JSON: {"schema": ref("Counted")}},
            },
            **refusals(400, 401, 408, 413, 415, 422, 429, 500, 503),
        },
    }


def _model() -> dict[str, Any]:
    return {
        "operationId": "model",
        "summary": "Which version answers, since when, and why",
        "responses": {
            "200": {"description": "The state", "content": {JSON: {"schema": {"type": "object"}}}},
            **refusals(401, 500),
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
            **refusals(401),
        },
    }
