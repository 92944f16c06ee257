"""Who may ask: anyone on this machine without a key, and elsewhere only who has the key."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from functools import lru_cache
from pathlib import Path

from pipelines.errors import ParamsError

KEY = "PERENNIAL_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
LOOPBACK_NAMES = (b"127.0.0.1", b"[::1]", b"localhost")
"""As the header Host has them."""
PASSED_ON = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-real-ip",
        b"via",
    )
)
"""What a proxy adds: who asks is elsewhere, although the connection comes from here. One that adds
nothing cannot be told (nginx, left as it is), so behind a proxy a key must be set."""
_TELLING = PASSED_ON | {b"host"}
PORT = re.compile(rb":[0-9]+$")
SHORTEST = 16
Headers = list[tuple[bytes, bytes]]
"""Names in lower case, as ASGI has them."""


def key_from_environment() -> bytes | None:
    """The key, from PERENNIAL_API_KEY or the file that PERENNIAL_API_KEY_FILE names."""
    text, file = os.environ.get(KEY, ""), os.environ.get(f"{KEY}_FILE")
    if file:
        path = Path(file)
        if not path.is_file():
            raise ParamsError(
                f"{KEY}_FILE names {file}, which is no file. Make one with: "
                f"openssl rand -hex 24 > {file}"
            )
        text = path.read_text(encoding="utf-8")
    text = text.strip()
    if not text:
        return None
    if len(text) < SHORTEST:
        raise ParamsError(
            f"{KEY} has {len(text)} characters; at least {SHORTEST} are needed. Make one with: "
            f"export {KEY}=$(openssl rand -hex 24)"
        )
    return text.encode()


def must_have_key(host: str, key: bytes | None) -> None:
    """Raises ParamsError when others could reach the service and there is no key."""
    if key is None and host not in LOOPBACK:
        raise ParamsError(
            f"--host {host} lets other machines ask, and there is no API key. Set one with: "
            f"export {KEY}=$(openssl rand -hex 24), or stay on this machine with --host 127.0.0.1"
        )


class Access:
    def __init__(self, key: bytes | None) -> None:
        self.key = key

    def allows(self, client: tuple[str, int] | None, headers: Headers) -> bool:
        """Without a key of our own: from loopback only, through no proxy, and asked for by its name. A
        page of a foreign site whose name was turned to 127.0.0.1 asks from here too (DNS rebinding)."""
        if self.key is None:
            return client is not None and client[0] in LOOPBACK and _from_here(headers)
        given = given_key(headers)
        return given is not None and hmac.compare_digest(given, self.key)


def _from_here(headers: Headers) -> bool:
    """Was this machine asked for by its name, through no proxy? Whoever tells no name is no browser."""
    for name, value in headers:
        if name in _TELLING and not (name == b"host" and _is_loopback(value)):
            return False
    return True


@lru_cache(maxsize=64)  # asked in each request, for the same few names
def _is_loopback(host: bytes) -> bool:
    return PORT.sub(b"", host.lower()) in LOOPBACK_NAMES


def given_key(headers: Headers) -> bytes | None:
    """From `Authorization: Bearer`, `X-API-Key`, or a browser's `Basic` with the key as password."""
    for name, value in headers:
        if name == b"x-api-key":
            return value
        if name == b"authorization":
            kind, _, rest = value.partition(b" ")
            if kind.lower() == b"bearer":
                return rest.strip()
            if kind.lower() == b"basic":
                return _password(rest)
    return None


def _password(encoded: bytes) -> bytes | None:
    try:
        _, _, password = base64.b64decode(encoded, validate=True).partition(b":")
    except binascii.Error:
        return None
    return password
