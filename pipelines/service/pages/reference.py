"""The page at `/docs`: how to ask by program, with commands that work as they are pasted."""

from __future__ import annotations

import json
import os
import shlex
from typing import TYPE_CHECKING, Any

from pipelines.contract import Contract
from pipelines.project import Project
from pipelines.service.access import KEY
from pipelines.service.pages.page import example, render
from pipelines.wire.bulk import CONTENT_TYPES
from pipelines.wire.problem import KINDS

if TYPE_CHECKING:
    from pipelines.service.worker import Worker

JSON = "application/json"
ARROW, PARQUET = CONTENT_TYPES["arrow"], CONTENT_TYPES["parquet"]


def docs_html(project: Project, worker: Worker, address: str) -> str:
    """address: where the asker reached the service, e.g. http://127.0.0.1:3000"""
    row = example(worker)
    address = address.rstrip("/")
    serve = project.task.serve
    return render(
        "docs.html",
        task=project.name,
        label=project.contract.label,
        classes=project.contract.classes,
        fields=worker.wire.shape.fields,
        curl=curl(address, row) if row else "",
        python=python(address, row) if row else "",
        bulk=bulk(address, row, _of(worker, "timestamp"), _of(worker, "image")) if row else "",
        labels=labels(address, project.contract),
        answer=answer(project.contract, worker),
        problems=[(kind, *KINDS[kind]) for kind in KINDS],
        max_rows=min(serve.max_rows, worker.wire.shape.max_pictures),
        max_mb=serve.max_mb,
        media={"json": JSON, "arrow": ARROW, "parquet": PARQUET},
        key=KEY if needs_key() else "",
    )


def needs_key() -> bool:
    return bool(os.environ.get(KEY) or os.environ.get(f"{KEY}_FILE"))


def curl(address: str, row: dict[str, Any]) -> str:
    body = json.dumps({"rows": [row]}, ensure_ascii=False)
    return _post(f"{address}/predict", body)


def labels(address: str, contract: Contract) -> str:
    label = contract.classes[0] if contract.classes else 1
    body = json.dumps({"labels": [{"id": "<prediction id>", "label": label}]}, ensure_ascii=False)
    return _post(f"{address}/labels", body)


def _post(address: str, body: str) -> str:
    # The key is named, not written: double quotes let the shell put it in.
    key = f'  -H "Authorization: Bearer ${KEY}" \\\n' if needs_key() else ""
    return (
        f"curl -s {shlex.quote(address)} \\\n{key}"
        f"  -H 'content-type: {JSON}' \\\n  -d {shlex.quote(body)}"
    )


def python(address: str, row: dict[str, Any]) -> str:
    """Nothing but the standard library."""
    return f"""\
import json
{_imports()}
row = {_literal(row)}
request = Request(
    {address + "/predict"!r},
    data=json.dumps({{"rows": [row]}}).encode(),
    headers={{"content-type": {JSON!r}{_key()}}},
)
with urlopen(request) as response:
    print(json.load(response))
"""


def bulk(
    address: str, row: dict[str, Any], times: tuple[str, ...], pictures: tuple[str, ...]
) -> str:
    """times, pictures: names of the row's fields that Arrow has types of its own for."""
    return f"""\
from base64 import b64decode
from datetime import datetime
{_imports()}
import pyarrow as pa

row = {_literal(row)}
for name in {list(times)!r}:
    row[name] = row[name] and datetime.fromisoformat(row[name])
for name in {list(pictures)!r}:
    row[name] = b64decode(row[name])
table = pa.Table.from_pylist([row] * 1000)
body = pa.BufferOutputStream()
with pa.ipc.new_stream(body, table.schema) as stream:
    stream.write_table(table)
request = Request(
    {address + "/predict"!r},
    data=body.getvalue().to_pybytes(),
    headers={{"content-type": {ARROW!r}{_key()}}},
)
with urlopen(request) as response:
    print(pa.ipc.open_stream(response.read()).read_all())
"""


def _literal(row: dict[str, Any]) -> str:
    return "{\n" + "".join(f"    {name!r}: {value!r},\n" for name, value in row.items()) + "}"


def _imports() -> str:
    return ("import os\n" if needs_key() else "") + "from urllib.request import Request, urlopen\n"


def _key() -> str:
    return f', "authorization": "Bearer " + os.environ["{KEY}"]' if needs_key() else ""


def _of(worker: Worker, kind: str) -> tuple[str, ...]:
    return tuple(f.name for f in worker.wire.shape.fields if f.column.type == kind)


def answer(contract: Contract, worker: Worker) -> str:
    model, task = worker.live.champion, contract.task
    version = model.version if model else "4"
    one: dict[str, Any] = {
        "id": f"{task}-{version}-20260401-0a1b2c3d-0",
        "probability": 0.314159,
        "prediction": 0,
    }
    if classes := contract.classes:
        rest = round((1 - 0.814159) / max(1, len(classes) - 1), 6)
        each = {name: rest for name in classes} | {classes[0]: 0.814159}
        one |= {"probability": 0.814159, "prediction": classes[0], "probabilities": each}
    return json.dumps(
        {"model": task, "version": version, "predictions": [one]}, indent=2, ensure_ascii=False
    )
