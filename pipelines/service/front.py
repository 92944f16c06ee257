"""The outermost ASGI application of a worker: /predict on the shortest way, all else as usual.

BentoML's own way to an API method costs a worker about a millisecond of processor time a request
(five tracing spans, pydantic, a schema made anew for every answer). So /predict is answered here,
before it, and the same method stays there for BentoML's clients and documentation;
tests/test_service.py holds that the two answer alike.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pipelines.serve_params import Serve
from pipelines.service.access import Access
from pipelines.service.answers import arrow_answer, json_answer
from pipelines.service.asked import Failed, Unavailable
from pipelines.service.engine import Engine
from pipelines.service.meters import Meters
from pipelines.service.spread import Spread
from pipelines.service.tracing import Tracing
from pipelines.wire.bulk import CONTENT_TYPES, Media
from pipelines.wire.problem import Problem, Refused

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

STOCK = frozenset({"/livez", "/healthz", "/metrics", "/schema.json"})
"""BentoML's own; it answers these."""
OPEN = frozenset({"/livez", "/healthz", "/readyz", "/hooks/mlflow"})
"""Asked by what starts and stops the service, which has no key, and by MLflow, which signs its body
instead; they tell nothing of the data."""
JSON = b"application/json"
ARROW = CONTENT_TYPES["arrow"].encode()
TABLES: dict[bytes, Media] = {name.encode(): media for media, name in CONTENT_TYPES.items()}
"""Content type of a bulk request -> what it is called here and in the log."""
BODY_SECONDS = 30.0
"""In which a body comes, or its place is given to another when there is none: a client that lost its
network says nothing, and would keep it for ever."""
PATIENT_FOR = 4
"""Bodies up to so many times the limit are read to their end before they are refused."""
LONGEST_LENGTH = 18
"""Digits of a content length that are read."""
NOSNIFF = (b"x-content-type-options", b"nosniff")
CLOSE = (b"connection", b"close")
RETRY = ((b"retry-after", b"1"),)
KEY_WANTED = ((b"www-authenticate", b'Basic realm="perennial"'),)


class Gone(Exception):
    """The client went away in the middle of its request."""


class Front:
    def __init__(
        self,
        stock: App,
        routes: App,
        engine: Engine,
        access: Access,
        meters: Meters,
        spread: Spread,
        serve: Serve,
        tracing: Tracing | None,
    ) -> None:
        self.stock, self.routes = stock, routes
        self.engine, self.access, self.meters, self.spread = engine, access, meters, spread
        self.tracing = tracing
        self.max_bytes = int(serve.max_mb * 1e6)
        self.concurrency = serve.concurrency
        self.busy = 0
        self.reading: dict[asyncio.Task[Any], float] = {}
        """Requests whose body has not come, and since when."""
        self.late: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.stock(scope, receive, send)
        path = scope["path"]
        if path not in OPEN and not self.access.allows(scope.get("client"), scope["headers"]):
            if path == "/predict":
                self.meters.refuse(401, "unauthorized")
            return await self._told(send, _unauthorized(self.access), KEY_WANTED)
        if path == "/predict" and scope["method"] == "POST":
            if self.tracing is None:
                return await self._predict(scope, receive, send)
            with self.tracing.request(scope):
                return await self._predict(scope, receive, send)
        app = self.stock if path in STOCK or path.startswith("/static_content/") else self.routes
        return await app(scope, receive, send)

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = time.perf_counter()
        if self.busy >= self.concurrency:
            self._give_up_the_slow(received)
            said = f"{self.concurrency} requests are being answered; come again in a second"
            return await self._refuse(send, Problem("too-many-requests", said), RETRY)
        task = asyncio.current_task()
        assert task is not None
        self.busy += 1
        self.reading[task] = received
        try:
            media, key, length = self._head(scope["headers"])
            if length > self.max_bytes:
                await self._let_pass(length, receive)
                raise self._too_large(length)
            message = await receive()
            body = message.get("body", b"")
            if message.get("more_body") or message["type"] != "http.request":
                body = await self._rest(message, body, receive)
            del self.reading[task]
            engine = self.engine
            if media == JSON:
                answered = await engine.ask(engine.wire.rows(body), body, received, key or body)
                payload = json_answer(engine.task, answered)
            else:
                table = engine.wire.table(body, TABLES[media])
                answered = engine.ask_table(table, TABLES[media], body, received, key or body)
                media, payload = ARROW, arrow_answer(answered)
        except Refused as refused:
            return await self._refuse(send, refused.problem)
        except Unavailable as away:
            return await self._refuse(send, Problem(away.kind, str(away)), RETRY)
        except Failed as failed:
            log.error("prediction failed", extra={"error": str(failed)})
            return await self._refuse(send, Problem("internal", "the model failed on these rows"))
        except asyncio.CancelledError:
            if task not in self.late:
                raise
            task.uncancel()
            said = f"the body did not come within {BODY_SECONDS:g} seconds"
            return await self._refuse(send, Problem("too-slow", said))
        except Gone:
            return self.meters.refuse(499, "gone")
        except Exception:
            log.exception("request failed")
            said = "the service made a mistake; its log says which"
            return await self._refuse(send, Problem("internal", said))
        finally:
            self.busy -= 1
            self.reading.pop(task, None)
            self.late.discard(task)
        headers = [
            (b"content-type", media),
            (b"content-length", b"%d" % len(payload)),
            (b"x-model-version", answered.version.encode()),
            NOSNIFF,
        ]
        if not self.spread.alone:
            self.spread.seen.add(scope["client"])
            if self.spread.sends_away():
                headers.append(CLOSE)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": payload})

    def _give_up_the_slow(self, now: float) -> None:
        for task, since in list(self.reading.items()):
            if now - since > BODY_SECONDS:
                del self.reading[task]
                self.late.add(task)
                task.cancel()

    def _head(self, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes, int]:
        """Content type, routing key and length; raises Refused for another content type."""
        media = key = b""
        length = 0
        for name, value in headers:
            if name == b"content-type":
                media = value
            elif name == b"content-length":
                # Python reads no number of thousands of digits, and no body is as long.
                length = int(value) if len(value) <= LONGEST_LENGTH else sys.maxsize
            elif name == b"x-route-key":
                key = value
        return (media if media == JSON else _plain(media)), key, length

    async def _rest(
        self, message: MutableMapping[str, Any], body: bytes, receive: Receive
    ) -> bytes:
        """A body that came in pieces; stops at the limit, whatever the client said of its length."""
        pieces, size = [body], len(body)
        while message["type"] == "http.request" and message.get("more_body"):
            message = await receive()
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self.max_bytes:
                raise self._too_large(size)
        if message["type"] != "http.request":
            raise Gone
        return b"".join(pieces)

    async def _let_pass(self, length: int, receive: Receive) -> None:
        """Read what is refused anyway, when it is not much more: a client that is still sending when
        the connection closes hears of a reset, and not why."""
        if length > PATIENT_FOR * self.max_bytes:
            return
        message = await receive()
        while message["type"] == "http.request" and message.get("more_body"):
            message = await receive()

    def _too_large(self, size: int) -> Refused:
        said = f"the body has {size} bytes or more; at most {self.max_bytes} are taken. Send fewer rows"
        return Refused(Problem("too-large", said))

    async def _refuse(
        self, send: Send, wrong: Problem, more: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        self.meters.refuse(wrong.status, wrong.kind)
        await self._told(send, wrong, more)

    async def _told(
        self, send: Send, wrong: Problem, more: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        payload = wrong.body()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(payload)),
            NOSNIFF,
            *more,
        ]
        if wrong.status in (408, 413):
            # What is left of the body is not read: the connection cannot be used again.
            headers.append(CLOSE)
        await send({"type": "http.response.start", "status": wrong.status, "headers": headers})
        await send({"type": "http.response.body", "body": payload})


def _plain(media: bytes) -> bytes:
    """The content type without its parameters; raises Refused for another one, or none."""
    name = media.partition(b";")[0].strip().lower()
    if name == JSON or name in TABLES:
        return name
    said = ", ".join(m.decode() for m in (JSON, *TABLES))
    shown = media.decode("latin-1")[:80] or "none"
    raise Refused(Problem("wrong-media-type", f"content-type is {shown}; taken are: {said}"))


def _unauthorized(access: Access) -> Problem:
    said = (
        "send the API key as `Authorization: Bearer <key>` or `X-API-Key: <key>`"
        if access.key
        else "no API key is set, so only this machine may ask, through no proxy, and by the name "
        "localhost or 127.0.0.1. Set PERENNIAL_API_KEY and start again"
    )
    return Problem("unauthorized", said)
