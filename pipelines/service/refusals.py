"""What every answer but one of /predict carries, and each refusal as problem details (RFC 9457)."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pipelines.wire.problem import Problem, Refused

SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "cache-control": "no-store",
}


def answer(wrong: Problem, headers: dict[str, str] | None = None) -> Response:
    return Response(
        wrong.body(), wrong.status, SECURITY | (headers or {}), "application/problem+json"
    )


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        said = f"{request.method} {request.url.path}; allowed: {headers.get('Allow', '')}"
        return answer(Problem("wrong-method", said), headers)
    return answer(Problem("not-found", f"there is nothing at {request.url.path}"))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    status = error.problem.status
    # The rest of the body is not read, so the connection is of no more use.
    if status in (408, 413):
        return answer(error.problem, {"connection": "close"})
    return answer(error.problem, {"retry-after": "1"} if status in (429, 503) else None)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


async def _fault(request: Request, error: Exception) -> Response:
    return answer(Problem("internal", "the service made a mistake; its log says which"))


HANDLERS = {
    HTTPException: _http,
    Refused: _refused,
    ClientDisconnect: _gone,
    Exception: _fault,
}
