"""Everything but /predict: what answers, labels, the registry's knock, the page, the documentation."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import asdict
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipelines.errors import PipelineError
from pipelines.labelled import Counted
from pipelines.project import Project
from pipelines.served import labels
from pipelines.service import webhook
from pipelines.service.front import BODY_SECONDS
from pipelines.service.label_body import labels_decoder, wrong_labels
from pipelines.service.pages import openapi, page, reference
from pipelines.service.refusals import HANDLERS, SECURITY, answer
from pipelines.service.worker import Worker
from pipelines.wire.problem import Problem, Refused

log = logging.getLogger(__name__)

WEBHOOK_SECRET = "PERENNIAL_WEBHOOK_SECRET"
KNOCK_BYTES = 65_536
"""Largest body of a knock, which is read before anyone knows who sent it."""
PUTS = 2
"""Posts of labels that are stored at the same time; the others wait."""
POSTS = 32
"""Posts of labels that are here at the same time: each may hold as much as `max_mb` and what it says."""


class Routes:
    def __init__(self, project: Project, worker: Worker) -> None:
        self.project, self.worker = project, worker
        self.labels_decoder = labels_decoder(project.contract)
        self.label_codes = labels.spelled(project.contract)
        self.max_bytes = int(project.task.serve.max_mb * 1e6)
        self._puts = asyncio.Semaphore(PUTS)
        self._posts = 0

    async def model(self, request: Request) -> Response:
        return self._say(self.worker.live.state())

    async def ready(self, request: Request) -> Response:
        """503 until a version answers; what went wrong since is told although all is answered."""
        said = self.worker.live.state()
        if self.worker.live.champion is None:
            return answer(Problem("no-model", self.worker.live.waiting_for()), {"retry-after": "1"})
        keep = ("said", "refused", "failed", "registry", "keeper", "challenger_off", "upkeep")
        return self._say({"ready": True} | {k: said[k] for k in keep if k in said})

    async def labels(self, request: Request) -> Response:
        """Labels by prediction id: {"labels": [{"id": ..., "label": 0 or 1, or a class}, ...]}."""
        if self._posts >= POSTS:
            said = f"{POSTS} posts of labels are being taken; come again in a second"
            raise Refused(Problem("too-many-requests", said))
        self._posts += 1
        try:
            return await self._labels(request)
        finally:
            self._posts -= 1

    async def _labels(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(
                Problem(
                    "wrong-media-type",
                    f"content-type is {kind or 'none'}; taken is: application/json",
                )
            )
        try:
            given = self.labels_decoder.decode(await self._body(request, self.max_bytes))
        except msgspec.ValidationError as error:
            raise Refused(wrong_labels(str(error), self.project.contract.classes)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(Problem("unreadable", f"the body is no JSON: {error}")) from None
        if self.project.contract.classes:
            pairs = [(item.id, self.label_codes[item.label]) for item in given.labels]
        else:
            pairs = [(item.id, int(item.label)) for item in given.labels]
        try:
            counted = asdict(await self._take(pairs))
        except PipelineError as error:
            log.exception("labels not taken")
            raise Refused(Problem("labels-not-taken", str(error))) from error
        for outcome, n in counted.items():
            self.worker.meters.labels.labels(self.project.name, outcome).inc(n)
        return self._say(counted)

    async def _take(self, pairs: list[tuple[str, int]]) -> Counted:
        counted = await self._put(pairs)
        settings = self.project.task.serve.log
        if not counted.unknown or settings.mode == "durable":
            return counted
        # The answer may have left before its record: a beat and its write later it is there.
        await asyncio.sleep(2 * settings.flush_ms / 1000)
        try:
            return labels.together(counted, await self._put(pairs))
        except PipelineError:  # what was taken is on disk, and whoever sent it must hear so
            log.exception("labels that were not known at once are not looked for again")
            return counted

    async def _put(self, pairs: list[tuple[str, int]]) -> Counted:
        async with self._puts:
            return await asyncio.to_thread(
                labels.take, self.project.at, self.project.contract, pairs
            )

    async def knock(self, request: Request) -> Response:
        """MLflow's webhook: an alias was moved, so the keeper looks at once."""
        secret = os.environ.get(WEBHOOK_SECRET, "")
        if not secret:
            said = f"webhooks are off: {WEBHOOK_SECRET} is not set"
            return answer(Problem("not-found", said))
        body = await self._body(request, KNOCK_BYTES)
        if not webhook.verify(request.headers, body, secret, time.time()):
            return answer(Problem("unauthorized", "the signature does not fit the body, or is old"))
        if webhook.wakes(body, self.project.at.registered_name):
            webhook.touch(self.project.at.wake)
        return Response(status_code=204, headers=SECURITY)

    async def openapi(self, request: Request) -> Response:
        return self._say(self.document())

    def document(self) -> dict[str, Any]:
        champion = self.worker.live.champion
        about = champion.artifact.about if champion else None
        example = page.example(self.worker)
        return openapi.document(self.project.contract, about, example, self.project.task.serve)

    async def index(self, request: Request) -> Response:
        return Response(
            page.html(self.project, self.worker), media_type="text/html", headers=SECURITY
        )

    async def docs(self, request: Request) -> Response:
        text = reference.docs_html(self.project, self.worker, str(request.base_url))
        return Response(text, media_type="text/html", headers=SECURITY)

    async def asset(self, request: Request) -> Response:
        text, media = page.asset(request.path_params["name"])
        return Response(text, media_type=media, headers=SECURITY)

    async def _body(self, request: Request, most: int) -> bytes:
        """A client that is lost in the middle of it says nothing, and would keep its place for ever."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.stream():
                    body += piece
                    if len(body) > most:
                        said = f"the body is larger than {most} bytes. Send less at a time"
                        raise Refused(Problem("too-large", said))
        except TimeoutError:
            said = f"the body did not come within {BODY_SECONDS:g} seconds"
            raise Refused(Problem("too-slow", said)) from None
        return bytes(body)

    def _say(self, value: Any) -> Response:
        return JSONResponse(value, headers=SECURITY)


def routes(project: Project, worker: Worker) -> Starlette:
    r = Routes(project, worker)
    return Starlette(
        routes=[
            Route("/", r.index, methods=["GET"]),
            Route("/page/{name}", r.asset, methods=["GET"]),
            Route("/model", r.model, methods=["GET"]),
            Route("/readyz", r.ready, methods=["GET"]),
            Route("/openapi.json", r.openapi, methods=["GET"]),
            Route("/docs", r.docs, methods=["GET"]),
            Route("/predict", _never, methods=["POST"]),
            Route("/labels", r.labels, methods=["POST"]),
            Route("/hooks/mlflow", r.knock, methods=["POST"]),
        ],
        exception_handlers=HANDLERS,
    )


async def _never(request: Request) -> Response:
    """Front answers POST /predict; named here so that other methods get 405 and not 404."""
    raise AssertionError("Front answers /predict")
