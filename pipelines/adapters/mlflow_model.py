"""An artifact as an MLflow model.

Its files lie beside MLflow's own, byte for byte, so the registry gives back the artifact that was
judged, and plain `mlflow models serve` can answer with it too.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import artifact, store
from pipelines.adapters.mlflow_home import experiment
from pipelines.artifact import Artifact
from pipelines.paths import Paths

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

REQUIREMENTS = ("mlflow", "onnx", "onnxruntime", "numpy", "pandas")
"""Given to MLflow outright: inferring them loads the model in another process for 13 seconds."""


def logged_model(at: Paths, name: str, digest: str) -> Any:
    """MLflow's newest model with this artifact digest, or None; half an upload is none."""
    import mlflow
    from mlflow.entities import LoggedModelStatus

    found = mlflow.MlflowClient().search_logged_models(
        [experiment(at, name)],
        filter_string=f"tags.artifact = '{digest}'",
        order_by=[{"field_name": "creation_timestamp", "ascending": False}],
    )
    # MLflow keeps the status as a number and finds nothing when it is asked for by its name.
    return next((m for m in found if m.status == LoggedModelStatus.READY), None)


def new_version(client: MlflowClient, at: Paths, made: Artifact, tags: Mapping[str, str]) -> str:
    """A version of the task's registered model, of what a run has logged or, where none has, of what
    is logged now. tags: beside those of the logged model."""
    model = logged_model(at, at.task, made.digest)
    if model is None:
        model_id = log_model(made, experiment(at, at.task), {"task": at.task}, None)
        model = client.get_logged_model(model_id)
    _make_name(client, at.registered_name)
    of_model = {k: v for k, v in model.tags.items() if not k.startswith("mlflow.")}
    version = client.create_model_version(
        at.registered_name,
        f"models:/{model.model_id}",
        model.source_run_id,
        tags={**of_model, **tags, "artifact": made.digest},
        model_id=model.model_id,
    )
    return str(version.version)


def _make_name(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def log_model(
    made: Artifact, experiment_id: str, tags: Mapping[str, str], run_id: str | None
) -> str:
    """Id of a new MLflow model that holds the artifact's files. Call it before metrics are logged.

    Not covered: a graph with a single input; MLflow hands that one a matrix and not a column.
    """
    import mlflow

    with warnings.catch_warnings():
        # Raised at import, for types of MLflow's own.
        warnings.filterwarnings("ignore", ".*type hint is inferred as AnyType", UserWarning)
        import mlflow.onnx
        import mlflow.pyfunc
        from mlflow.models import Model

    client = mlflow.MlflowClient()
    model = client.create_logged_model(
        experiment_id,
        name="model",
        source_run_id=run_id,
        tags={**tags, "artifact": made.digest},
        params={"family": made.about.family, "seed": str(made.about.seed)},
        model_type=made.about.kind,
    )
    flavor = SimpleNamespace(save_model=_save_beside(made), __name__="mlflow.onnx")
    Model.log(None, flavor, name="model", model_id=model.model_id, run_id=run_id)
    return str(model.model_id)


def _save_beside(made: Artifact) -> Any:
    """MLflow's way in for a flavour of one's own: its ONNX flavour, and then our files over it."""

    def save_model(path: str, mlflow_model: Any, **_: Any) -> None:
        import mlflow
        import onnx

        graph = onnx.load(made.folder / "model.onnx")
        examples = store.frame(made.folder / "examples.parquet").head(5)
        mlflow.onnx.save_model(
            graph,
            path,
            mlflow_model=mlflow_model,
            signature=_signature(graph),
            input_example=_as_asked(made, examples),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in REQUIREMENTS],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
        )
        for name in (*artifact.FILES, "manifest.json"):
            shutil.copyfile(made.folder / name, Path(path) / name)

    return save_model


def _signature(graph: Any) -> Any:
    """The graph's own inputs: epoch seconds as long, numbers as double, categories as string; or
    pictures as a tensor of their pixels."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec
    from onnx import TensorProto

    if any(i.type.tensor_type.elem_type == TensorProto.UINT8 for i in graph.graph.input):
        return ModelSignature(
            Schema([TensorSpec(np.dtype(np.uint8), _shape(i), i.name) for i in graph.graph.input]),
            Schema(
                [TensorSpec(np.dtype(np.float32), _shape(o), o.name) for o in graph.graph.output]
            ),
        )
    kinds = {TensorProto.INT64: "long", TensorProto.FLOAT: "double", TensorProto.STRING: "string"}
    inputs = [(i.name, kinds[i.type.tensor_type.elem_type]) for i in graph.graph.input]
    return ModelSignature(
        Schema([ColSpec(kind, name, required=kind == "long") for name, kind in inputs]),
        Schema([ColSpec("float", "probability")]),
    )


def _shape(value: Any) -> tuple[int, ...]:
    """-1 for the number of rows."""
    return tuple(d.dim_value or -1 for d in value.type.tensor_type.shape.dim)


def _as_asked(made: Artifact, rows: pd.DataFrame) -> pd.DataFrame | dict[str, np.ndarray]:
    """Rows with the types of the signature: what a caller of `mlflow models serve` sends."""
    import pandas as pd

    feeds = made.feeds(rows)
    if made.contract.images:
        return feeds
    return pd.DataFrame(
        {name: v.astype("float64") if v.dtype == "float32" else v for name, v in feeds.items()}
    )
