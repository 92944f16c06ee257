"""MLflow's knock: an alias was moved. Only a reason to look; what is true is read in the registry.

A knock may be lost, come twice or out of order (MLflow keeps no outbox), and none of it matters.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path

OLDEST = 300
"""Seconds that a knock stays valid, so that one that was overheard cannot be repeated for ever."""
_VERSION = "v1,"


def verify(headers: Mapping[str, str], body: bytes, secret: str, now: float) -> bool:
    """Was this body signed with the secret, within OLDEST seconds of `now` (Unix time)?"""
    given = {name.lower(): value for name, value in headers.items()}
    identity = given.get("x-mlflow-delivery-id", "")
    stamp = given.get("x-mlflow-timestamp", "")
    signature = given.get("x-mlflow-signature", "")
    # Digits alone: int() also takes spaces, signs, underscores and other scripts' numbers.
    if not (secret and identity and stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        return False
    if abs(now - int(stamp)) > OLDEST or not signature.startswith(_VERSION):
        return False
    signed = f"{identity}.{stamp}.".encode("utf-8", "surrogatepass") + body
    expected = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    try:
        told = base64.b64decode(signature.removeprefix(_VERSION), validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(expected, told)


def wakes(body: bytes, registered_name: str) -> bool:
    """Does this (verified) body tell that an alias of the model was set or taken away?"""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(said, dict) or not isinstance(said.get("data"), dict):
        return False
    return (
        said.get("entity") == "model_version_alias" and said["data"].get("name") == registered_name
    )


def touch(wake: Path) -> None:
    """The keeper watches this file's time."""
    wake.parent.mkdir(parents=True, exist_ok=True)
    wake.touch()
