"""Run: pytest tests/slow/test_service.py -m slow

`perennial serve`, as its users meet it: answers, refusals, keys, the alias, the log, the end.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from pipelines import artifact
from pipelines.adapters.registry import Registry
from pipelines.paths import Paths
from pipelines.served.answers import Wanted, read
from pipelines.service.front import ARROW
from tests.fakes import PUMPS, pumps
from tests.slow import serving
from tests.slow.serving import Running, body, row

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    at = serving.project(tmp_path_factory.mktemp("pumps"), max_rows=1000, max_mb=0.5)
    serving.champion(at, serving.version(at))
    with serving.serving(at) as service:
        yield service


def expected(at: Paths, version: str, rows: Any) -> np.ndarray:
    return artifact.load(Registry(at).fetch(version)).predict(rows)


def arrow(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return bytes(out.getvalue())


def bulk(rows: Any) -> bytes:
    wanted = list(dict.fromkeys((*PUMPS.key, *PUMPS.inputs)))
    return arrow(pa.Table.from_pandas(rows[wanted], preserve_index=False))


def as_rows(table: Any) -> list[dict[str, Any]]:
    wanted = list(dict.fromkeys((*PUMPS.key, *PUMPS.inputs)))
    rows = table[wanted].assign(moment=table["moment"].dt.strftime("%Y-%m-%dT%H:%M:%S"))
    return [dict(r) for r in rows.to_dict("records")]


def test_it_answers_as_the_artifact_does_one_row_or_many_json_or_arrow(running: Running) -> None:
    table = pumps(200)
    truth = expected(running.at, "1", table)
    one = [running.predict(r).json()["predictions"][0] for r in as_rows(table.head(5))]
    many = running.predict(*as_rows(table)).json()["predictions"]
    got = running.client.post(
        f"{running.url}/predict", content=bulk(table), headers={"content-type": ARROW.decode()}
    )
    found = pa.ipc.open_stream(got.content).read_all()
    assert np.array_equal(np.float32([p["probability"] for p in one]), truth[:5])
    assert np.array_equal(np.float32([p["probability"] for p in many]), truth)
    assert np.array_equal(found.column("probability").to_numpy(), truth)
    ids = [p["id"] for p in one + many] + found.column("id").to_pylist()
    assert len(set(ids)) == len(ids) == 405
    assert got.headers["x-model-version"] == "1"


def test_bentomls_own_way_answers_alike(running: Running) -> None:
    """In front of it, /predict is answered the fast way; this asks the method behind."""
    import bentoml

    rows = as_rows(pumps(3))
    fast = running.predict(*rows).json()
    with bentoml.SyncHTTPClient(running.url) as client:
        stock = client.predict(rows=rows)
    told = [(p["probability"], p["prediction"]) for p in fast["predictions"]]
    assert [(p["probability"], p["prediction"]) for p in stock["predictions"]] == told
    assert stock["version"] == fast["version"]


@pytest.mark.parametrize(
    ("content", "media", "status", "kind"),
    [
        (b'{"rows": [', "application/json", 400, "unreadable"),
        (b"\xff\xfe", "application/json", 400, "unreadable"),
        (b'{"rows": []}', "application/json", 422, "invalid-rows"),
        (b'{"rows": [{}]}', "application/json", 422, "invalid-rows"),
        (json.dumps(body(row(heat="hot"))).encode(), "application/json", 422, "invalid-rows"),
        (json.dumps(body(row(heat=None))).encode(), "application/json", 422, "invalid-rows"),
        (json.dumps(body(row(colour="red"))).encode(), "application/json", 422, "invalid-rows"),
        (json.dumps(body(*[row()] * 1001)).encode(), "application/json", 422, "invalid-rows"),
        (json.dumps(body(*[row()] * 9000)).encode(), "application/json", 413, "too-large"),
        (b"heat=1", "application/x-www-form-urlencoded", 415, "wrong-media-type"),
        (b"\x80\x04K\x01.", "application/vnd.bentoml+pickle", 415, "wrong-media-type"),
        (b"no arrow", ARROW.decode(), 400, "unreadable"),
        (b"PAR1", "application/vnd.apache.parquet", 400, "unreadable"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong_in_one_shape(
    running: Running, content: bytes, media: str, status: int, kind: str
) -> None:
    got = running.client.post(
        f"{running.url}/predict", content=content, headers={"content-type": media}
    )
    said = got.json()
    assert (got.status_code, said["type"]) == (status, f"/problems/{kind}")
    assert got.headers["content-type"] == "application/problem+json"
    assert said["status"] == status
    assert said["detail"]
    assert "Traceback" not in got.text


def test_a_refusal_names_field_value_and_what_is_allowed(running: Running) -> None:
    said = running.predict(row(), row(heat="hot")).json()
    (wrong,) = said["errors"]
    assert wrong["field"] == "rows[1].heat"
    assert wrong["value"] == "hot"
    assert "number" in wrong["allowed"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("DELETE", "/labels", 405), ("GET", "/nothing", 404),
     ("PUT", "/model", 405), ("POST", "/hooks/mlflow", 404)],
)  # fmt: skip
def test_wrong_methods_and_addresses_have_the_same_shape(
    running: Running, method: str, path: str, status: int
) -> None:
    got = running.client.request(method, running.url + path)
    assert (got.status_code, got.json()["status"]) == (status, status)


def test_a_body_larger_than_it_says_is_cut_off(running: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 10_000

    got = httpx.post(
        f"{running.url}/predict", content=endless(), headers={"content-type": "application/json"}
    )
    assert got.status_code == 413


def test_answers_are_on_record_and_labels_join_them(running: Running) -> None:
    given = running.predict(row(pump=41), row(pump=42)).json()["predictions"]
    ids = [p["id"] for p in given]
    running.until(
        lambda: set(ids) <= set(read(running.at, PUMPS, Wanted())["id"]), "the answers on record"
    )
    log = read(running.at, PUMPS, Wanted()).set_index("id")
    assert log.loc[ids, "pump"].tolist() == [41, 42]
    assert np.array_equal(
        np.float32(log.loc[ids, "probability"]), np.float32([p["probability"] for p in given])
    )

    def label(*pairs: tuple[str, Any]) -> httpx.Response:
        told = {"labels": [{"id": i, "label": y} for i, y in pairs]}
        return running.client.post(f"{running.url}/labels", json=told)

    nobody = ids[0].rsplit("-", 2)[0] + "-00000000-0"
    first = label((ids[0], 1), (nobody, 0)).json()
    assert (first["accepted"], first["unknown"]) == (1, 1)
    again = label((ids[0], 1), (ids[0], 0), (ids[1], 0)).json()
    assert (again["accepted"], again["repeated"], again["conflicting"]) == (1, 1, 1)
    wrong = label((ids[0], 2))
    assert wrong.json()["errors"][0]["field"] == "labels[0].label"
    assert wrong.json()["errors"][0]["allowed"] == "0 or 1"
    assert (wrong.status_code, wrong.json()["type"]) == (422, "/problems/invalid-labels")


def test_metrics_count_what_happened(running: Running) -> None:
    def rows() -> float:
        return metric(running, "perennial_rows_total", 'version="1"')

    before = rows()
    running.predict(row(), row(), row())
    running.until(lambda: rows() == before + 3, "three more rows in /metrics")
    assert metric(running, "perennial_registry_reachable", "") == 1
    assert metric(running, "perennial_model_version", 'slot="champion"') == 1


def metric(running: Running, name: str, labels: str) -> float:
    lines = running.get("/metrics").text.splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith((name + "{", name + " ")) and labels in line
    )


def test_the_model_tells_which_since_when_and_why(running: Running) -> None:
    said = running.get("/model").json()["champion"]
    assert said["version"] == "1"
    assert said["since"]
    assert said["why"]


def test_a_route_key_and_tracing_headers_do_no_harm(running: Running) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    got = running.predict(row(), **{"x-route-key": "customer 7", "traceparent": trace})
    assert got.status_code == 200


def test_a_service_without_a_champion_is_alive_and_not_ready_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    at = serving.project(tmp_path / "p")
    with serving.serving(at, ready=False) as service:
        assert service.get("/livez").status_code == 200
        assert service.get("/readyz").status_code == 503
        got = service.predict()
        assert (got.status_code, got.json()["type"]) == (503, "/problems/no-model")
        assert "perennial tick pumps" in got.json()["detail"]
        assert got.headers["retry-after"]
        serving.champion(at, serving.version(at))
        service.until(lambda: service.predict().status_code == 200, "the first champion")


def test_with_a_key_only_who_has_it_may_ask(tmp_path: Path) -> None:
    with serving.with_champion(tmp_path / "p", PERENNIAL_API_KEY=KEY) as service:
        for path in ("/", "/model", "/metrics", "/openapi.json", "/labels"):
            assert service.get(path).status_code == 401, path
        refused = service.predict()
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert service.predict(authorization=f"Bearer {KEY}").status_code == 200
        assert service.predict(**{"x-api-key": KEY}).status_code == 200
        assert httpx.get(f"{service.url}/model", auth=("anyone", KEY)).status_code == 200
        assert service.get("/livez").status_code == service.get("/readyz").status_code == 200


def test_other_machines_are_not_let_in_without_a_key(tmp_path: Path) -> None:
    import subprocess
    import sys

    at = serving.project(tmp_path / "p")
    env = os.environ | {"PYTHONPATH": str(serving.REPOSITORY)}
    command = [sys.executable, "-m", "pipelines", "serve", "pumps", "--host", "0.0.0.0"]
    done = subprocess.run(
        command, cwd=at.root, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "PERENNIAL_API_KEY" in done.stderr


def test_a_port_that_is_taken_is_named(running: Running) -> None:
    import subprocess
    import sys

    port = running.url.rsplit(":", 1)[1]
    env = os.environ | {"PYTHONPATH": str(serving.REPOSITORY)}
    command = [sys.executable, "-m", "pipelines", "serve", "pumps", "--port", port]
    done = subprocess.run(
        command,
        cwd=running.at.root,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert f"--port {port}" in done.stderr


def test_the_end_waits_for_those_who_were_asking_and_loses_no_record(tmp_path: Path) -> None:
    with serving.with_champion(tmp_path / "p") as service:
        host, port = service.url.removeprefix("http://").split(":")
        ids: list[str] = []

        def ask() -> None:
            with httpx.Client(timeout=30) as client:
                while True:
                    try:
                        got = client.post(f"{service.url}/predict", json=body())
                    except httpx.TransportError:
                        return  # the service has ended
                    ids.append(got.json()["predictions"][0]["id"])

        # Half a request is on its way when the end comes, and gets its answer.
        content = json.dumps(body()).encode()
        head = (
            "POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\n\r\n"
        )
        with (
            socket.create_connection((host, int(port))) as half,
            concurrent.futures.ThreadPoolExecutor(4) as pool,
        ):
            half.sendall(head.encode() + content[:20])
            asking = [pool.submit(ask) for _ in range(4)]
            service.until(lambda: len(ids) > 100, "a hundred answers")
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            half.sendall(content[20:])
            half.settimeout(30)
            assert half.recv(65_536).startswith(b"HTTP/1.1 200")
            half.close()
            for one in asking:
                one.result(60)
        assert service.process.wait(60) == 0
    log = read(service.at, PUMPS, Wanted())
    assert set(ids) <= set(log["id"])
