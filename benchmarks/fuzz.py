"""The service against its own OpenAPI document: `make bench-fuzz`, or `python -m benchmarks.fuzz 500`.

schemathesis makes requests that the document allows and requests that it forbids. No answer may be a
5xx, none may be undocumented, and what the document forbids must be refused. One rule of the contract
no schema can say (one column never exceeds another), so an allowed request may be a documented 422.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.figures import Figure, close
from benchmarks.serving import make_world, rows_of
from benchmarks.serving_rivals.running import HOST, started
from benchmarks.serving_rivals.servers import service

CASES = 10_000
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method",
)  # fmt: skip
FUZZED = 2
"""Addresses that take a body, on which most cases are spent."""
AT_ONCE = 2
"""Processes that make requests: schemathesis takes longer over one than the service does."""


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    home = Path(tempfile.mkdtemp(prefix="perennial-fuzz-"))
    generated = failed = 0
    told: list[str] = []
    try:
        world = make_world(home)
        one, many = rows_of(world)
        with started("ours", service(world, one, many), home, []) as running:
            running.until_ready(one.plain())
            address = f"http://{HOST}:{running.port}"
            seeds = itertools.count(1)
            while generated < wanted:
                each = max(100, min(2000, (wanted - generated) // FUZZED // AT_ONCE))
                some = [next(seeds) for _ in range(AT_ONCE)]
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    found = list(pool.map(partial(fuzz, address, each, home), some))
                for seed, (cases, wrong, said) in zip(some, found, strict=True):
                    generated, failed = generated + cases, failed + wrong
                    told += [said] if wrong else []
                    print(f"seed {seed}: {cases} cases, {wrong} failed", flush=True)
    finally:
        # Its keeper may still be at the log of the last answers.
        shutil.rmtree(home, ignore_errors=True)
    print("\n".join(told))
    figures = [
        Figure("cases", generated, wanted, "at least"),
        Figure("5xx, undocumented, or wrongly answered", failed, 0, "at most"),
    ]
    close("fuzz", figures, {"checks": CHECKS, "told": told})


def fuzz(address: str, examples: int, home: Path, seed: int) -> tuple[int, int, str]:
    """Cases made, cases failed, and what schemathesis printed."""
    command = [
        str(Path(sys.executable).with_name("st")), "run", f"{address}/openapi.json",
        "--url", address, "--checks", ",".join(CHECKS), "--max-examples", str(examples),
        "--seed", str(seed), "--continue-on-failure", "--no-color",
    ]  # fmt: skip
    own = home / f"seed-{seed}"  # schemathesis keeps its examples where it runs
    own.mkdir()
    done = subprocess.run(command, cwd=own, capture_output=True, text=True, check=False)
    said = re.search(r"(\d+) generated", done.stdout)
    if said is None:
        sys.exit(f"schemathesis did not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    wrong = re.search(r"(\d+) found (\d+) unique failures", done.stdout)
    failures = int(wrong.group(1)) if wrong else int(done.returncode != 0)
    return int(said.group(1)), failures, done.stdout


if __name__ == "__main__":
    main()
