"""A running service, asked over HTTP as anyone else would ask it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from pipelines.errors import ServiceError

if TYPE_CHECKING:
    import pandas as pd

ARROW = "application/vnd.apache.arrow.stream"
CHUNK = 5_000
"""Rows of one request."""
PATIENCE = 60.0
"""Seconds to wait for the service to answer with a version that was just promoted."""


class Service:
    """Every method raises ServiceError, which says what the service answered or that it did not."""

    def __init__(self, url: str) -> None:
        import requests

        self.url = url.rstrip("/")
        self._session = requests.Session()
        if key := os.environ.get("PERENNIAL_API_KEY"):
            self._session.headers["authorization"] = f"Bearer {key}"

    def version(self) -> str | None:
        """The version that answers; None before there is one."""
        champion = self._ask("GET", "/model").json().get("champion")
        return str(champion["version"]) if champion else None

    def wait_for(self, version: str) -> None:
        """Until every answer comes from `version`: the service follows the alias within seconds."""
        until = time.monotonic() + PATIENCE
        while (now := self.version()) != version:
            if time.monotonic() > until:
                raise ServiceError(
                    f"{self.url} still answers with version {now or 'none'} and not {version}, "
                    f"{PATIENCE:.0f} s after it became champion. It says why at: "
                    f"curl {self.url}/readyz"
                )
            time.sleep(0.1)

    def predict(self, rows: pd.DataFrame) -> list[str]:
        """Ids of the answers, in the rows' order."""
        import pyarrow as pa

        ids: list[str] = []
        for at in range(0, len(rows), CHUNK):
            table = pa.Table.from_pandas(rows.iloc[at : at + CHUNK], preserve_index=False)
            out = pa.BufferOutputStream()
            with pa.ipc.new_stream(out, table.schema) as stream:
                stream.write_table(table)
            body = bytes(out.getvalue())
            got = self._ask("POST", "/predict", data=body, headers={"content-type": ARROW})
            ids += pa.ipc.open_stream(got.content).read_all().column("id").to_pylist()
        return ids

    def label(self, ids: list[str], labels: list[int]) -> dict[str, int]:
        """How many were accepted, repeated, conflicting and unknown."""
        counted: dict[str, int] = {}
        for at in range(0, len(ids), 10 * CHUNK):
            part = zip(ids[at : at + 10 * CHUNK], labels[at : at + 10 * CHUNK], strict=True)
            body = {"labels": [{"id": i, "label": y} for i, y in part]}
            for outcome, n in self._ask("POST", "/labels", json=body).json().items():
                counted[outcome] = counted.get(outcome, 0) + n
        return counted

    def _ask(self, method: str, path: str, **what: Any) -> Any:
        import requests

        try:
            got = self._session.request(method, self.url + path, timeout=60, **what)
        except requests.RequestException as error:
            raise ServiceError(
                f"{self.url}{path} does not answer: {type(error).__name__}. "
                "Start it with: perennial serve <task>"
            ) from error
        if got.status_code >= 400:
            raise ServiceError(
                f"{method} {self.url}{path} answered {got.status_code}: {got.text[:500]}. "
                f"See how it is with: curl {self.url}/readyz"
            )
        return got
