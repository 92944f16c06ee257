"""The BentoML service of one task: `bentoml serve pipelines.service.app:service`.

PERENNIAL_TASK names the task; `perennial serve` sets it, and a bento carries it.
"""

import os
from typing import Any, cast

import bentoml
from bentoml.exceptions import BentoMLException, InvalidArgument

from pipelines.errors import ParamsError
from pipelines.project import Project, open_project
from pipelines.service import access, logs
from pipelines.service.answers import as_object
from pipelines.service.asked import Failed, Unavailable
from pipelines.service.delivery.stage import bento_name
from pipelines.service.front import App, Front
from pipelines.service.routes import routes
from pipelines.service.tracing import from_environment
from pipelines.service.worker import Worker
from pipelines.wire.problem import Refused

TASK, WORKERS = "PERENNIAL_TASK", "PERENNIAL_WORKERS"


class FastService(bentoml.Service):
    """BentoML's service with Front around its application.

    `to_asgi` is a public method, but replacing it is no documented way in, and the lock pins the
    version. The documented one, `add_asgi_middleware`, sits inside five layers and cost 1.4 times
    the processor time a request. If the method goes, the service still answers, slower:
    tests/test_service.py fails.
    """

    def to_asgi(self, is_main: bool = True) -> App:
        return front_of(super().to_asgi(is_main))


class Held:
    """The worker of this process: made once BentoML has told it what it needs to know."""

    worker: Worker | None = None


def front_of(stock: App) -> Front:
    """Front around BentoML's application, with a worker of its own."""
    from bentoml._internal.context import server_context

    logs.configure()
    index = (server_context.worker_index or 1) - 1
    worker = Held.worker = Worker(project, index, workers)
    access_by = access.Access(access.key_from_environment())
    serve = project.task.serve
    return Front(
        stock, routes(project, worker), worker.engine, access_by, worker.meters, worker.spread,
        serve, from_environment(project.name),
    )  # fmt: skip


def _opened() -> Project:
    name = os.environ.get(TASK)
    if not name:
        raise ParamsError(f"{TASK} names no task. Serve one with: perennial serve <task>")
    return open_project(name)


class Answers:
    """Predictions of the task's champion, by contract."""

    @bentoml.on_startup
    async def start(self) -> None:
        if Held.worker is not None:
            await Held.worker.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        if Held.worker is not None:
            await Held.worker.stop()

    @bentoml.api
    async def predict(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """BentoML's own way to the same answers; over HTTP, Front answers before it."""
        import time

        import msgspec

        worker = cast(Worker, Held.worker)
        body = msgspec.json.encode({"rows": rows})
        try:
            asked = worker.wire.rows(body)
            answered = await worker.engine.ask(asked, body, time.perf_counter(), body)
        except Refused as refused:
            raise InvalidArgument(refused.problem.body().decode()) from None
        except (Unavailable, Failed) as error:
            raise BentoMLException(str(error)) from None
        return as_object(worker.project.name, answered)


project = _opened()
workers = int(os.environ.get(WORKERS) or project.task.serve.workers)
service = FastService(
    name=bento_name(project.name),
    inner=Answers,
    config={
        "workers": workers,
        # Spans and access lines for what Front does not answer tell nothing that metrics do not.
        "tracing": {"excluded_urls": ".*"},
        "logging": {"access": {"enabled": False}},
    },
)
