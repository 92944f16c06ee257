"""Run: pytest tests/test_webhook.py   (really delivered: pytest tests/slow/test_keeper.py -m slow)"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.service import webhook
from pipelines.service.routes import KNOCK_BYTES, routes
from tests.keeper_world import project

NOW = 1_700_000_000
SECRET = "a shared secret"
MOVED = {
    "entity": "model_version_alias",
    "action": "created",
    "timestamp": "2026-01-01T00:00:00+00:00",
    "data": {"name": "pumps", "alias": "champion", "version": "2"},
}
BODY = json.dumps(MOVED).encode()


def signed(body: bytes = BODY, secret: str = SECRET, stamp: str = str(NOW)) -> dict[str, str]:
    """As MLflow 3.17 signs."""
    content = f"delivery-7.{stamp}.".encode() + body
    made = base64.b64encode(hmac.new(secret.encode(), content, hashlib.sha256).digest()).decode()
    return {
        "X-MLflow-Delivery-Id": "delivery-7",
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Signature": f"v1,{made}",
    }


def test_what_was_signed_with_the_secret_is_believed_whatever_the_headers_case():
    assert webhook.verify(signed(), BODY, SECRET, NOW)
    assert webhook.verify({k.lower(): v for k, v in signed().items()}, BODY, SECRET, NOW + 300)
    assert webhook.verify({k.upper(): v for k, v in signed().items()}, BODY, SECRET, NOW - 300)


@pytest.mark.parametrize("name", list(signed()))
def test_without_a_header_or_with_another_in_its_place_nothing_is_believed(name: str):
    headers = signed()
    for value in (
        "",
        "0",
        "v1,",
        "v1,!!",
        "v2," + headers["X-MLflow-Signature"][3:],
        "v1,AAAA",
        "é",
    ):
        assert not webhook.verify(headers | {name: value}, BODY, SECRET, NOW)
    del headers[name]
    assert not webhook.verify(headers, BODY, SECRET, NOW)


@pytest.mark.parametrize("now", [NOW + 301, NOW - 301, NOW + 1e9, 0])
def test_an_old_knock_cannot_be_repeated(now: float):
    assert not webhook.verify(signed(), BODY, SECRET, now)


@pytest.mark.parametrize(
    "stamp",
    ["", "-1700000000", "1_700_000_000", " 1700000000", "١٧٠٠٠٠٠٠٠٠", "1e9", "9" * 5000, "NaN"],
)
def test_a_time_that_is_no_plain_number_is_not_believed_even_when_signed(stamp: str):
    assert not webhook.verify(signed(stamp=stamp), BODY, SECRET, NOW)


def test_nobody_is_believed_without_a_secret_or_with_another():
    assert not webhook.verify(signed(secret="guessed"), BODY, SECRET, NOW)
    assert not webhook.verify(signed(secret=""), BODY, "", NOW)


@given(at=st.integers(0, len(BODY) - 1), by=st.integers(1, 255))
def test_a_body_altered_in_one_byte_is_not_believed(at: int, by: int):
    altered = BODY[:at] + bytes([BODY[at] ^ by]) + BODY[at + 1 :]
    assert not webhook.verify(signed(), altered, SECRET, NOW)


@pytest.mark.parametrize("action", ["created", "deleted"])
def test_an_alias_of_the_model_that_was_set_or_taken_away_wakes(action: str):
    assert webhook.wakes(json.dumps(MOVED | {"action": action}).encode(), "pumps")


@pytest.mark.parametrize(
    "said",
    [
        MOVED | {"entity": "model_version_tag"},
        MOVED | {"entity": ["model_version_alias"]},
        MOVED | {"data": {"name": "fans", "alias": "champion"}},
        MOVED | {"data": None},
        {},
        [MOVED],
        None,
        "model_version_alias",
    ],
)
def test_anything_else_does_not(said: Any):
    assert not webhook.wakes(json.dumps(said).encode(), "pumps")


@given(
    body=st.binary(max_size=50) | st.sampled_from([b"[" * 100_000, b"\xff\xfe{", b'{"a":' * 9999])
)
def test_a_body_of_any_bytes_is_no_error(body: bytes):
    assert not webhook.wakes(body, "pumps")


def test_the_keeper_sees_the_knock_by_the_files_time(tmp_path: Path):
    wake = tmp_path / "service" / "pumps" / "wake"
    webhook.touch(wake)
    os.utime(wake, (1, 1))
    webhook.touch(wake)
    assert wake.stat().st_mtime > NOW


# At the door: who knocks has no key, so what is read of him is little, and without a secret nothing.


def knocked(root: Path, body: bytes, headers: dict[str, str]) -> httpx.Response:
    worker: Any = None

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(routes(project(root), worker))
        async with httpx.AsyncClient(transport=transport, base_url="http://pumps") as client:
            return await client.post("/hooks/mlflow", content=body, headers=headers)

    return asyncio.run(ask())


def test_a_knock_wakes_when_it_is_signed_and_is_turned_away_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wake, now = project(tmp_path).at.wake, str(int(time.time()))
    monkeypatch.delenv("PERENNIAL_WEBHOOK_SECRET", raising=False)
    assert knocked(tmp_path, BODY, signed(secret="", stamp=now)).status_code == 404
    monkeypatch.setenv("PERENNIAL_WEBHOOK_SECRET", SECRET)
    assert knocked(tmp_path, BODY, {}).status_code == 401
    large = b" " * KNOCK_BYTES + BODY
    assert knocked(tmp_path, large, signed(large, stamp=now)).status_code == 413
    assert not wake.exists()
    body = BODY.replace(b'"pumps"', json.dumps(project(tmp_path).at.registered_name).encode())
    assert knocked(tmp_path, body, signed(body, stamp=now)).status_code == 204
    assert wake.exists()
