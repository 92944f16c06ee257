"""What the pumps' service is asked under load, and what each version must answer to it."""

from __future__ import annotations

from benchmarks.asking import Questions
from pipelines.graph import open_graph, raw_inputs
from tests.fakes import PUMPS, pump_graph, pumps
from tests.served_world import json_body

ROWS = 64


def graph(number: int) -> bytes:
    """Of version `number`: its answer to any row is another one than any other number's."""
    return pump_graph({"heat": 1.0, "noise": 0.5}, bias=-1.5 + 0.5 * number)


def questions(graphs: dict[str, bytes]) -> Questions:
    """graphs: by version."""
    rows = pumps(ROWS, seed=3)
    right = {}
    for version, made in graphs.items():
        session = open_graph(made)
        feeds = raw_inputs(rows, PUMPS, [i.name for i in session.get_inputs()])
        right[version] = session.run(["probability"], feeds)[0].tolist()
    return Questions([json_body(rows.iloc[[i]]) for i in range(ROWS)], right)
