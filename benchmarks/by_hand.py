"""The default task as one hand-written script: the same reading, checks, fitting, scoring and
logging with the same libraries, in one process, keeping nothing that a second run could reuse: no
files between the steps, no hashes, no validation pages, no self-test, nothing for the monitor.
The other side of `make bench-overhead`; run by it in a folder of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import mlflow.onnx
import numpy as np
import onnx as onnx_format
import pandas as pd
import torch

from pipelines import contract as contracts
from pipelines import metrics, params, periods
from pipelines.adapters import expectations, onnx
from pipelines.encoder import fit_encoder
from pipelines.graph import open_graph, raw_inputs
from pipelines.models import fit
from pipelines.slices import slices_of
from pipelines.sources.flights import Flights
from pipelines.stages import evaluate
from pipelines.tasks import tabular
from pipelines.tasks.split import split


def main(project: Path, here: Path) -> None:
    task = params.task(project / "params.yaml", "flights")
    contract = contracts.load(project / "contracts" / "flights.yaml")
    names = periods.between(task.window.first, task.window.last, task.period)

    source = Flights()
    tables: list[pd.DataFrame] = []
    for name in names:
        table = source.read(name)
        table.to_parquet(here / f"{name}.parquet", index=False)
        table = pd.read_parquet(here / f"{name}.parquet")
        history = [len(t) for t in tables]
        found = expectations.check(table, contract, name, task.period, history, here / "docs")
        assert not any(f.stops for f in found)
        tables.append(table)

    table = pd.concat(tables, ignore_index=True)
    seconds = table[contract.time].to_numpy().astype("datetime64[s]").astype(np.int64)
    parts = split(seconds, len(tables[-1]), task.window)
    encoder = fit_encoder(table.iloc[parts.train], contract, task.calendar, task.min_category)
    train = tabular.encode(table.iloc[parts.train], contract, encoder)
    validation = tabular.encode(table.iloc[parts.validation], contract, encoder)
    test = table.iloc[parts.test]

    torch.set_num_threads(task.train.threads)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    mlflow.set_tracking_uri(f"sqlite:///{here}/mlflow.db")
    mlflow.create_experiment("flights", artifact_location=str(here / "artifacts"))
    mlflow.set_experiment("flights")
    with mlflow.start_run():
        mlflow.log_params(task.train.network.model_dump())
        model = fit.fit(
            train, validation, encoder.cardinalities, task.train.network, task.train.seed,
            lambda epoch, values: mlflow.log_metrics(values, step=epoch),
        )  # fmt: skip
        threshold = metrics.best_threshold(
            validation.label, model.predict(validation.numbers, validation.codes)
        )
        graph = onnx.raw_to_probability(encoder, model.to_onnx())
        feeds = raw_inputs(test, contract, contract.inputs)
        session = open_graph(graph)
        probability = session.run(["probability"], feeds)[0]
        label = test[contract.label].to_numpy().astype(np.int8)
        summary = evaluate.summarise(label, probability, threshold, task)
        slices = slices_of(test, contract, task.evaluate.slices)
        curves = evaluate.curves_of(label, probability, threshold)
        curves |= {"slices": evaluate.by_slice(label, probability, slices, task)}
        (here / "report").mkdir()
        evaluate.write(here / "report", "flights", summary, curves)
        inputs = pd.DataFrame(feeds).head(5)
        mlflow.onnx.log_model(
            onnx_format.load_from_string(graph),
            name="model",
            signature=mlflow.models.infer_signature(inputs, probability[:5]),
            input_example=inputs,
            pip_requirements=["onnxruntime"],
            save_as_external_data=False,
        )
        mlflow.log_metrics(summary)
        mlflow.log_artifacts(str(here / "report"), "report")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
