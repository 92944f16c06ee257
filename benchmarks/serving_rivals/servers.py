"""How each server is started, and what it is asked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving_rivals import model
from benchmarks.serving_rivals.bodies import Question, Rows


@dataclass(frozen=True)
class World:
    """A project with a champion, made for this run."""

    home: Path
    project: Path
    twin: Path
    """The same project in another folder: two services of one task would share their files."""
    model: Path
    encoder: Path


@dataclass(frozen=True)
class Server:
    """The command takes `--port`. Questions go by the name that they have in the table."""

    command: tuple[str, ...]
    environment: dict[str, str]
    single: dict[str, Question]
    bulk: dict[str, Question]


def service(world: World, one: Rows, many: Rows, workers: int = 1) -> Server:
    return Server(
        _python("pipelines", f"serve flights --host 127.0.0.1 --workers {workers}"),
        _shared(world) | {"PERENNIAL_ROOT": str(world.project)},
        {"Perennial": one.plain()},
        {"Perennial, Arrow": many.arrow(), "Perennial, JSON": many.plain()},
    )


def _without_log(world: World, one: Rows, many: Rows) -> Server:
    return Server(
        _python("bentoml", "serve benchmarks.serving_rivals.no_log:service --host 127.0.0.1"),
        _shared(world)
        | {
            "BENTOML_HOME": str(world.home / "no_log"),
            "PERENNIAL_ROOT": str(world.twin),
            "PERENNIAL_TASK": "flights",
        },
        {"Perennial, no log": one.plain()},
        {},
    )


def _limit_tick(world: World, one: Rows, many: Rows) -> Server:
    bulk = {"raw arrays": many.raw(), "bare ASGI, batching": many.untyped()}
    return _asgi(world, "limit_tick", {"bare ASGI, batching": one.untyped()}, bulk)


def _limit(world: World, one: Rows, many: Rows) -> Server:
    return _asgi(world, "limit", {"bare ASGI": one.untyped()}, {})


def _fastapi_onnx(world: World, one: Rows, many: Rows) -> Server:
    label = "FastAPI, ONNX"
    return _asgi(world, "fastapi_onnx", {label: one.plain()}, {label: many.plain()})


def _fastapi_torch(world: World, one: Rows, many: Rows) -> Server:
    label = "FastAPI, torch"
    return _asgi(world, "fastapi_torch", {label: one.plain()}, {label: many.plain()})


def _asgi(
    world: World, module: str, single: dict[str, Question], bulk: dict[str, Question]
) -> Server:
    quick = "--loop uvloop --http httptools --no-access-log --log-level warning --lifespan off"
    address = f"benchmarks.serving_rivals.{module}:app"
    return Server(_python("uvicorn", f"--factory {address} {quick}"), _shared(world), single, bulk)


def _bento(world: World, one: Rows, many: Rows) -> Server:
    address = "benchmarks.serving_rivals.bento_default:Flights"
    return Server(
        _python("bentoml", f"serve {address} --host 127.0.0.1"),
        # A folder of its own: each start empties the metrics folder that lies in it.
        _shared(world) | {"BENTOML_HOME": str(world.home / "bento")},
        {"BentoML, pydantic": one.plain(), "BentoML, DataFrame": one.frame()},
        {"BentoML, pydantic": many.plain(), "BentoML, DataFrame": many.frame()},
    )


def _mlflow(world: World, one: Rows, many: Rows) -> Server:
    options = "-m models:/flights@champion --env-manager local --host 127.0.0.1"
    return Server(
        _python("mlflow", f"models serve {options}"),
        _shared(world) | {"MLFLOW_TRACKING_URI": f"sqlite:///{world.project}/.mlflow/mlflow.db"},
        {"mlflow models serve": one.split()},
        {"mlflow models serve": many.split()},
    )


def _python(module: str, arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments.split())


def _shared(world: World) -> dict[str, str]:
    return {
        model.FOLDER: str(world.model),
        model.ENCODER: str(world.encoder),
        "PYTHONPATH": str(Path(__file__).parent.parent.parent),
        "OMP_NUM_THREADS": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


SERVERS: dict[str, Callable[[World, Rows, Rows], Server]] = {
    "limit_tick": _limit_tick,
    "limit": _limit,
    "fastapi_onnx": _fastapi_onnx,
    "fastapi_torch": _fastapi_torch,
    "bento_default": _bento,
    "mlflow_serve": _mlflow,
    "ours": service,
    "ours_no_log": _without_log,
}
"""One row and many rows in, by the name that the command takes."""
