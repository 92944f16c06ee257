"""One picture a row, with a time and a class.

N rows, H height, W width, C channels, K classes, E embedding, D directions of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import images
from pipelines.adapters import onnx
from pipelines.artifact import Artifact
from pipelines.contract import Column, Contract
from pipelines.drift import profile
from pipelines.drift.profile import Profile, Watched
from pipelines.errors import ArtifactError, ParamsError
from pipelines.graph import raw_inputs
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.records import Pictures, Record

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.models import pictures
    from pipelines.models.progress import OnStep

ROWS = 64
"""Train pictures that an exported file is held to."""
FAMILIES = ("cnn", "resnet")


class Pixels(Record):
    """What the train pictures are like, which every picture is measured by."""

    classes: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    """Of each channel, white being 1."""


def check(task: Task, contract: Contract) -> None:
    name = contract.task
    if len(contract.images) != 1 or contract.numbers or contract.categories:
        others = ", ".join((*contract.images[1:], *contract.numbers, *contract.categories))
        raise ParamsError(
            f"contracts/{name}.yaml: kind image reads one column of type image, and no other "
            f"feature; {f'there is also {others}' if contract.images else 'there is none'}. Mark "
            f"the others feature: false. Mend it with: edit contracts/{name}.yaml"
        )
    if not contract.classes:
        raise ParamsError(
            f"contracts/{name}.yaml: label {contract.label} must be of type category, with the "
            f"classes as its values, for kind image. Mend it with: edit contracts/{name}.yaml"
        )
    if task.train.family not in FAMILIES:
        raise ParamsError(
            f"params.yaml: tasks.{name}.train.family is {task.train.family!r}; for kind image it "
            f"must be one of {', '.join(FAMILIES)}. Mend it with: edit params.yaml"
        )
    if task.calendar:
        raise ParamsError(
            f"params.yaml: tasks.{name}.calendar is {list(task.calendar)}; kind image makes no "
            "features of the time: it must be []. Mend it with: edit params.yaml"
        )


def picture(contract: Contract) -> tuple[str, Column]:
    (name,) = contract.images
    return name, contract.columns[name]


def fit_encoder(train: pd.DataFrame, contract: Contract, task: Task) -> Pixels:
    mean, deviation = images.moments(_pixels(train, contract))
    return Pixels(classes=len(contract.classes), mean=mean, deviation=deviation)


def read_encoder(content: Mapping[str, Any]) -> Pixels:
    return Pixels.model_validate(content)


def encode(table: pd.DataFrame, contract: Contract, encoder: Pixels) -> Pictures:
    return Pictures(
        pixels=_pixels(table, contract),
        label=contract.codes(table[contract.label]),
        time=raw_inputs(table, contract, [contract.time])[contract.time],
    )


def known_by(rows: Pictures) -> np.ndarray:
    return np.array([images.digest(pixels_HWC) for pixels_HWC in rows.pixels], dtype=str)


def read_rows(arrays: Mapping[str, np.ndarray]) -> Pictures:
    return Pictures(**arrays)


def fit(
    name: str,
    task: Task,
    train: Pictures,
    validation: Pictures,
    encoder: Pixels,
    report: Callable[[int, dict[str, float]], None],
    folder: Path | None = None,
    on_step: OnStep | None = None,
) -> pictures.Fitted:
    import torch

    from pipelines.models import pictures

    # Threads are set on purpose: two busy processes with a pool each run many times slower.
    torch.set_num_threads(task.train.threads)
    try:
        return pictures.fit_pictures(
            train, validation, encoder.mean, encoder.deviation, encoder.classes, task.train, report,
            folder=folder, on_step=on_step,
        )  # fmt: skip
    except (FloatingPointError, MemoryError) as error:
        raise ArtifactError(f"train {name}: {error}. Then run: dvc repro") from error


def forget(fitted: pictures.Fitted) -> None:
    fitted.forget()


def answers(fitted: pictures.Fitted, rows: Pictures) -> np.ndarray:
    return fitted.predict(rows.pixels)


def graph(fitted: pictures.Fitted, contract: Contract, encoder: Pixels) -> bytes:
    name, column = picture(contract)
    assert column.size is not None
    model = fitted.to_onnx(column.size)
    return onnx.pixels_to_probability(model, name, fitted.centre, fitted.directions)


def calibration(at: Paths, train: Pictures, contract: Contract) -> dict[str, np.ndarray]:
    return {picture(contract)[0]: train.pixels}


def export(fitted: pictures.Fitted, folder: Path, name: str, task: Task, train: Pictures) -> None:
    if not task.train.export:
        return
    import torch

    from pipelines.models import exported
    from pipelines.models.picture_graph import Answers

    rows = [torch.from_numpy(train.pixels[:ROWS])]
    exported.write(Answers(fitted.network), rows, folder, name, task.train.export)


def reference(train: Pictures, contract: Contract, graph: bytes, seed: int) -> Profile:
    """Of the pictures' statistics, and of what the model makes of the pictures."""
    embedding = onnx.answers(graph, {picture(contract)[0]: train.pixels}, "embedding")
    return profile.make(_watched(train.pixels, train.time, embedding, contract), seed)


def watched(table: pd.DataFrame, contract: Contract, model: Artifact | None) -> Watched:
    time = raw_inputs(table, contract, [contract.time])[contract.time]
    embedding = model.embed(table) if model else None
    return _watched(_pixels(table, contract), time, embedding, contract)


def _watched(
    pixels: np.ndarray, time: np.ndarray, embedding: np.ndarray | None, contract: Contract
) -> Watched:
    """Without the time of day: folders and IDX files tell none, and `sources/dealing.py` makes one up that
    differs with how many pictures a period has."""
    import pandas as pd

    name, _ = picture(contract)
    columns = {f"{name} {what}": values for what, values in images.statistics(pixels).items()}
    if embedding is not None:
        columns |= {f"{name} direction {d + 1}": v for d, v in enumerate(embedding.T)}
    table = pd.DataFrame({contract.time: time.astype("datetime64[s]"), **columns})
    return Watched(table, contract.time, tuple(columns), ())


def _pixels(table: pd.DataFrame, contract: Contract) -> np.ndarray:
    """(N, H, W, C) uint8."""
    name, _ = picture(contract)
    return raw_inputs(table, contract, [name])[name]
