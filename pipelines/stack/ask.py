"""Is a part healthy? Each function gives a question, asked with the time that the part was started."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import urllib.error
import urllib.request

from pipelines.stack.part import Ask

SECONDS = 5.0
"""Time that one answer may take."""


def answers(url: str) -> Ask:
    """Healthy is 200."""

    def ask(started: float) -> str | None:
        return _get(url)[1]

    return ask


def beats(url: str, component: str) -> Ask:
    """A part of Airflow that has no port: its heartbeat, as the API server at `url` tells it.

    A heartbeat from before the start is that of the one who ran before.
    """

    def ask(started: float) -> str | None:
        body, wrong = _get(url)
        if wrong:
            return wrong
        said = json.loads(body).get(component) or {}
        beat = said.get(f"latest_{component}_heartbeat")
        if beat is None or dt.datetime.fromisoformat(beat).timestamp() < started:
            return "no heartbeat yet"
        return None if said["status"] == "healthy" else f"{said['status']}, last heartbeat {beat}"

    return ask


def exits_well(command: tuple[str, ...]) -> Ask:
    """Healthy is exit status 0."""

    def ask(started: float) -> str | None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else (done.stdout + done.stderr).strip()

    return ask


def _get(url: str) -> tuple[bytes, str | None]:
    """Body, and what is wrong with the answer. The shell's proxy is not asked: it is this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=SECONDS) as answer:
            return answer.read(), None
    except urllib.error.HTTPError as error:
        return b"", f"{url} answers {error.code}"
    except OSError as error:
        reason = getattr(error, "reason", error)
        return b"", f"{url} does not answer: {reason}"
