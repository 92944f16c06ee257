"""Run: pytest tests/slow/test_fuzz.py -m slow

The running service against its own OpenAPI document, by schemathesis, and hostile bytes by hand.
`make bench-fuzz` does the same with ten thousand cases.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slow import serving
from tests.slow.serving import Running

pytestmark = pytest.mark.slow

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,negative_data_rejection,positive_data_acceptance,unsupported_method"
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving.with_champion(tmp_path_factory.mktemp("pumps")) as service:
        yield service


def test_what_the_document_allows_is_answered_and_what_it_forbids_is_refused(
    running: Running, tmp_path: Path
) -> None:
    command = [
        str(Path(sys.executable).with_name("st")), "run", f"{running.url}/openapi.json",
        "--url", running.url, "--checks", CHECKS, "--max-examples", "60", "--seed", "7",
        "--continue-on-failure", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "No issues found" in done.stdout


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "said",
    [
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        HEAD + b"X-Route-Key: \xff\xfe\x00\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\n\r\n" + b"[" * 100_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10,
        b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"\r\n" * 1000,
    ],
    ids=lambda said: repr(said[-24:]),
)
def test_bytes_that_are_no_request_end_in_a_refusal_or_a_closed_connection(
    running: Running, said: bytes
) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            got = connection.recv(65_536)
        except TimeoutError:
            raise
        except OSError:  # refused before all was said, and closed
            got = b""
    assert got == b"" or got.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), got[:200]
    assert running.predict().status_code == 200


def test_a_deeply_nested_body_is_refused(running: Running) -> None:
    for path in ("/predict", "/labels"):
        for nested in (b"[" * 200_000, b'{"rows":' * 50_000):
            got = running.client.post(
                running.url + path, content=nested, headers={"content-type": "application/json"}
            )
            assert 400 <= got.status_code < 500, path
    assert running.predict().status_code == 200
