"""One bounded load by `wrk`, and what the server's processes used during it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")

SCRIPT = """
local threads = {}
function setup(thread) table.insert(threads, thread) end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method, wrk.body = "POST", file:read("*a")
  wrk.headers["Content-Type"] = args[2]
  marker, least, by_worker = args[3], tonumber(args[4]), args[5] == "workers"
  wrong, sample, workers = 0, "", {}
end

-- An answer counts when it is 200, long enough for its rows, and holds the first row's probability.
function response(status, headers, body)
  if status ~= 200 or #body < least or not string.find(body, marker, 1, true) then
    wrong = wrong + 1
    sample = status .. " " .. string.sub(body, 1, 200)
  elseif by_worker then
    local worker = string.match(body, '"id":%s*"[^"]*%-(%x+)%-%x+"')
    if worker then workers[worker] = (workers[worker] or 0) + 1 end
  end
end

function done(summary, latency, requests)
  local e, thread = summary.errors, threads[1]
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"wrong":%d,"broken":%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, thread:get("wrong"),
    e.connect + e.read + e.write + e.timeout))
  io.write("SAMPLE " .. thread:get("sample"):gsub("[\\r\\n]", " ") .. "\\n")
  for worker, count in pairs(thread:get("workers")) do
    io.write("WORKER " .. worker .. " " .. count .. "\\n")
  end
end
"""


@dataclass(frozen=True)
class Shot:
    """What is sent, where, and what an answer must hold: `marker`, and `least` bytes."""

    url: str
    kind: str
    body: Path
    marker: str
    least: int


@dataclass(frozen=True)
class Round:
    rate: float
    """Requests a second."""
    p50: float
    """Milliseconds."""
    p99: float
    cpu: float
    """Processor microseconds of the server's processes for each request."""
    failed: int
    """Answers that were wrong, refused or never came."""
    sample: str
    """The last of them."""
    server_share: float
    """Share of a core that the server used; under full load, others took what is missing to 1."""
    wrk_share: float
    """The same of wrk; near 1, the figures are wrk's."""
    by_worker: dict[str, int]


def need_wrk() -> None:
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk. Install it with: sudo apt-get install wrk")


@cache
def pinned(core: int) -> list[str]:
    """Prefix that keeps a command on one core; nothing where this process has only one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or shutil.which("taskset") is None:
        return []
    return ["taskset", "-c", str(cores[core])]


def fire(
    shot: Shot,
    server: int,
    connections: int,
    seconds: int,
    *,
    prefix: list[str],
    count_workers: bool = False,
) -> Round:
    """Load on the server whose first process is `server`, from one thread of wrk under `prefix`."""
    script = shot.body.with_name("load.lua")
    script.write_text(SCRIPT)
    command = [
        *prefix, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s",
        "-s", str(script), shot.url, "--",
        str(shot.body), shot.kind, shot.marker, str(shot.least), "workers" if count_workers else "",
    ]  # fmt: skip
    used, busy = processor(server), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, timeout=120
    )
    used, after = processor(server) - used, resource.getrusage(resource.RUSAGE_CHILDREN)
    said = [line.split(" ", 1) for line in done.stdout.splitlines()]
    lines = {line[0]: line[1] for line in said if len(line) == 2}
    if done.returncode or "RESULT" not in lines:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    told = json.loads(lines["RESULT"])
    shares = [line[1].split() for line in said if line[0] == "WORKER"]
    spent = after.ru_utime + after.ru_stime - busy.ru_utime - busy.ru_stime
    return Round(
        rate=told["requests"] / told["seconds"],
        p50=told["p50"],
        p99=told["p99"],
        cpu=used / max(told["requests"], 1) * 1e6,
        failed=told["wrong"] + told["broken"] + (told["requests"] == 0),
        sample=lines.get("SAMPLE", ""),
        server_share=used / told["seconds"],
        wrk_share=spent / told["seconds"],
        by_worker={worker: int(count) for worker, count in shares},
    )


def processes(root: int) -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        if fields := _fields(stat):
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, ahead = [], [root]
    while ahead:
        found.append(ahead.pop())
        ahead += children.get(found[-1], [])
    return found


def processor(root: int) -> float:
    """Processor seconds, user and system, of these processes and of those that ended below them."""
    ticks = 0
    for process in processes(root):
        if fields := _fields(Path(f"/proc/{process}/stat")):
            ticks += sum(int(value) for value in fields[11:15])
    return ticks / TICK


def memory_mb(root: int) -> float:
    """Proportional set size: pages shared by n processes count 1/n for each."""
    total = 0
    for process in processes(root):
        try:
            rolled = Path(f"/proc/{process}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next(int(x.split()[1]) for x in rolled.splitlines() if x.startswith("Pss:"))
    return total / 1024


def _fields(stat: Path) -> list[str]:
    """Of /proc/<pid>/stat, from the state on; empty when the process has gone."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
