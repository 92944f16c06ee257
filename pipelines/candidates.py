"""The training of a tick: prepare, train, evaluate, in a folder of its own."""

from __future__ import annotations

import time

from pipelines import store
from pipelines.project import Project
from pipelines.stages import evaluate, prepare, train, validate


def train_candidate(candidate: Project, reason: str) -> float:
    """prepare, train, evaluate; returns the seconds it took.

    Done before with the same settings, contract and batches, it is not done again.
    """
    name, task, contract, at = candidate.name, candidate.task, candidate.contract, candidate.at
    spent = at.model.with_name("seconds.json")
    window = candidate.window(task.window.last)
    results = [validate.accepted(at, p, contract) for p in window]
    settings = task.model_dump(mode="json", exclude={"gate", "monitor", "policy", "serve"})
    given = store.digest_of([settings, contract.digest, [r.content for r in results]])
    if spent.is_file():
        done = store.read_json(spent, "perennial tick")
        if done["given"] == given:
            return float(done["seconds"])
    # Left there, it would call what another training leaves half done the model of these settings.
    spent.unlink(missing_ok=True)
    began = time.perf_counter()
    prepare.run(name, task, contract, at, window, results)
    train.run(name, task, contract, at, reason)
    evaluate.run(name, task, contract, at)
    seconds = time.perf_counter() - began
    store.write_json(spent, {"seconds": round(seconds, 2), "given": given})
    return seconds
