"""Request and answer of flights as a team writes them by hand, for FastAPI and for BentoML."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from pydantic import BaseModel

from pipelines.artifact import Artifact

EPOCH = datetime(1970, 1, 1)


class Row(BaseModel):
    scheduled_departure: datetime
    carrier: str
    flight: int
    origin: str
    destination: str
    scheduled_arrival: int
    distance: float
    aircraft_year: float | None
    aircraft_maker: str | None
    aircraft_model: str | None
    aircraft_seats: float | None
    temperature: float | None
    dew_point: float | None
    humidity: float | None
    wind_direction: float | None
    wind_speed: float | None
    wind_gust: float | None
    precipitation: float | None
    pressure: float | None
    visibility: float | None


class Request(BaseModel):
    rows: list[Row]


class Prediction(BaseModel):
    probability: float
    prediction: int


class Answer(BaseModel):
    version: str
    predictions: list[Prediction]


def seconds(rows: list[Row]) -> np.ndarray:
    """(N,) int64."""
    return np.array(
        [(row.scheduled_departure - EPOCH).total_seconds() for row in rows], dtype=np.int64
    )


def feeds(rows: list[Row], artifact: Artifact) -> dict[str, np.ndarray]:
    """The graph's inputs."""
    found = {artifact.contract.time: seconds(rows)}
    for name in artifact.contract.numbers:
        found[name] = np.array([getattr(row, name) for row in rows], dtype=np.float32)
    for name in artifact.contract.categories:
        found[name] = np.array([getattr(row, name) or "" for row in rows], dtype=object)
    return {name: found[name] for name in artifact.graph_inputs}


def as_answer(probability: np.ndarray, threshold: float) -> Answer:
    return Answer(
        version="1",
        predictions=[
            Prediction(probability=p, prediction=int(p >= threshold)) for p in probability.tolist()
        ],
    )
