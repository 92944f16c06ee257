"""FastAPI with pydantic, and the same ONNX file: no batching, no log, no metrics."""

from __future__ import annotations

from fastapi import FastAPI

from benchmarks.serving_rivals import model
from benchmarks.serving_rivals.typed import Answer, Request, as_answer, feeds


def app() -> FastAPI:
    artifact, api = model.opened(), FastAPI()

    @api.post("/predict")
    async def predict(request: Request) -> Answer:
        probability = artifact.run(feeds(request.rows, artifact))
        return as_answer(probability, artifact.about.threshold)

    return api
