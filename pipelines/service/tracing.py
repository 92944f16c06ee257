"""OpenTelemetry, by the standard's own settings: OTEL_EXPORTER_OTLP_ENDPOINT turns it on."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Tracing:
    """One span a request, as a child of the caller's when it sent `traceparent`."""

    def __init__(self, tracer: Any) -> None:
        self.tracer = tracer

    def request(self, scope: Any) -> AbstractContextManager[Any]:
        from opentelemetry import propagate, trace

        carrier = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        return self.tracer.start_as_current_span(  # type: ignore[no-any-return]
            "POST /predict",
            context=propagate.extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes={"http.request.method": "POST", "url.path": "/predict"},
        )


def from_environment(task: str) -> Tracing | None:
    if not os.environ.get(ENDPOINT):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", f"perennial-{task}")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider.get_tracer("perennial"))
