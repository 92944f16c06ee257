"""A running service, asked over HTTP as anyone else would ask it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pipelines.errors import ServiceError
from pipelines.wire.bulk import CONTENT_TYPES

if TYPE_CHECKING:
    import pandas as pd

ARROW = {"content-type": CONTENT_TYPES["arrow"]}
CHUNK, SIZE = 5_000, 16e6
"""Rows and bytes of one request, where the service takes as many."""
LABELS = 50_000
"""Labels of one request."""
PATIENCE = 60.0
"""Seconds to wait for the service to answer with a version that was just promoted."""


class Service:
    """Every method raises ServiceError, which says what the service answered or that it did not.

    key: the API key, where the service wants one. rows, size: the most rows and bytes that it takes in
    one request.
    """

    def __init__(
        self, url: str, key: bytes | None = None, rows: int = CHUNK, size: float = SIZE
    ) -> None:
        import requests

        self.url = url.rstrip("/")
        self.rows, self.size = min(CHUNK, rows), size
        self._session = requests.Session()
        if key is not None:
            self._session.headers["authorization"] = f"Bearer {key.decode('latin-1')}"

    def version(self) -> str | None:
        """The version that answers; None before there is one."""
        champion = self._ask("GET", "/model").json().get("champion")
        return str(champion["version"]) if champion else None

    def wait_for(self, version: str) -> None:
        """Until the worker that was asked answers with `version`; the service's others follow it
        within a moment."""
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
        starts = range(0, len(rows), self.rows)
        return [i for at in starts for i in self._predict(rows.iloc[at : at + self.rows])]

    def _predict(self, rows: pd.DataFrame) -> list[str]:
        """In halves, where their bytes are more than the service takes at once."""
        import pyarrow as pa

        table = pa.Table.from_pandas(rows, preserve_index=False)
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
        body = bytes(out.getvalue())
        if len(body) > self.size and len(rows) > 1:
            half = len(rows) // 2
            return self._predict(rows.iloc[:half]) + self._predict(rows.iloc[half:])
        got = self._ask("POST", "/predict", data=body, headers=ARROW)
        ids: list[str] = pa.ipc.open_stream(got.content).read_all().column("id").to_pylist()
        return ids

    def label(self, ids: list[str], labels: list[int] | list[str]) -> dict[str, int]:
        """How many were accepted, repeated, conflicting and unknown."""
        counted: dict[str, int] = {}
        for at in range(0, len(ids), LABELS):
            part = zip(ids[at : at + LABELS], labels[at : at + LABELS], strict=True)
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
