"""BentoML's plain service: `predict` with pydantic rows, `frame` with a DataFrame; stock settings."""

import bentoml
import pandas as pd

from benchmarks.serving_rivals import model
from benchmarks.serving_rivals.typed import Answer, Row, as_answer, feeds


@bentoml.service
class Flights:
    def __init__(self) -> None:
        self.artifact = model.opened()

    @bentoml.api
    async def predict(self, rows: list[Row]) -> Answer:
        probability = self.artifact.run(feeds(rows, self.artifact))
        return as_answer(probability, self.artifact.about.threshold)

    @bentoml.api
    async def frame(self, rows: pd.DataFrame) -> pd.DataFrame:
        rows["scheduled_departure"] = pd.to_datetime(rows["scheduled_departure"])
        probability = self.artifact.predict(rows)
        prediction = (probability >= self.artifact.about.threshold).astype(int)
        return pd.DataFrame({"probability": probability, "prediction": prediction})
