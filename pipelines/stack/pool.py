"""Airflow's pool of one slot: whatever wants the GPU waits its turn."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from pipelines.errors import ServiceError
from pipelines.stack.secrets import ADMIN, Secrets

POOL = "gpu"


def ensure(url: str, secrets: Secrets) -> None:
    """A pool that is there keeps the slots that a person gave it."""
    login = {"username": ADMIN, "password": secrets.admin_password()}
    token = _post(f"{url}/auth/token", login)["access_token"]
    if _there(f"{url}/api/v2/pools/{POOL}", token):
        return
    wanted = {"name": POOL, "slots": 1, "description": "one at a time on the GPU"}
    _post(f"{url}/api/v2/pools", wanted, token)


def _there(url: str, token: str) -> bool:
    """Asked first: Airflow writes a traceback into its log for a pool that is made twice."""
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30):
            return True
    except urllib.error.HTTPError:  # whatever it is, the post that follows tells it
        return False


def _post(url: str, body: dict[str, Any], token: str | None = None) -> dict[str, Any]:
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            said: dict[str, Any] = json.load(answer)
            return said
    except urllib.error.HTTPError as error:
        if error.code == 409:
            return {}
        raise ServiceError(
            f"{url} answers {error.code}: {error.read().decode()[:300]}. "
            "See the log with: perennial stack status"
        ) from None
