"""May this version answer? Asked by the keeper before it is published, by each worker before a swap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines import artifact
from pipelines.agreement import unanswerable
from pipelines.artifact import Artifact, Examples
from pipelines.contract import Contract
from pipelines.errors import ArtifactError

NUMBERS = {"integer", "number", "boolean"}
"""Read alike, and not the same: what a client may send was the model's to learn from."""
WARM_ROWS = (1, 64)
"""A graph's first call of a size is slow; these are a lone request and a busy moment."""


def verified(
    folder: Path, digest: str, contract: Contract, pause: Callable[[], None] = lambda: None
) -> Artifact:
    """The artifact in `folder`, loaded, self-tested and warm.

    digest: of the artifact as registered; contract: the service's; pause: called between the parts,
    for whoever answers requests beside it. Raises ArtifactError with the first reason why it must
    not answer.
    """
    _only_the_artifact(folder)
    pause()
    made = artifact.load(folder)
    if made.digest != digest:
        raise ArtifactError(
            f"{folder} holds artifact {made.digest}, and {digest} was registered. "
            f"Get it again with: rm -r {folder}"
        )
    foreign = compatible(made.contract, contract) or _asks_for_more(made, contract)
    if foreign:
        task = contract.task
        raise ArtifactError(
            f"the model's contract is not the service's: {foreign}. Go back with: "
            f"perennial rollback {task}, or train for this contract with: dvc repro evaluate@{task}"
        )
    pause()
    known = artifact.examples(made)  # read once: the old version answers beside this
    pause()
    artifact.self_test(made, known)
    _warm_up(made, known)
    return made


def compatible(model: Contract, service: Contract) -> str:
    """Why the model is none for the service's contract; empty when it is."""
    reasons = [
        f"{role} is {told} in the model and {wanted} in the contract"
        for role, told, wanted in (
            ("task", model.task, service.task),
            ("key", ", ".join(model.key), ", ".join(service.key)),
        )
        if told != wanted
    ]
    reasons += unanswerable(model, service, service.inputs)
    for n in service.inputs:
        ours = service.columns[n].type
        if n not in model.inputs:
            reasons.append(f"the model never learned from {n}")
        elif {ours, theirs := model.columns[n].type} <= NUMBERS and ours != theirs:
            reasons.append(f"{n} is of type {theirs} in the model and {ours} in the contract")
    return "; ".join(reasons)


def _asks_for_more(made: Artifact, contract: Contract) -> str:
    more = [name for name in made.graph_inputs if name not in contract.inputs]
    return f"its graph reads {', '.join(more)}, which is no input of a request" if more else ""


def _only_the_artifact(folder: Path) -> None:
    known = {*artifact.FILES, "manifest.json"}
    strange = sorted(p.name for p in folder.iterdir() if p.name not in known or not p.is_file())
    if strange:
        raise ArtifactError(
            f"{folder} holds {', '.join(strange)}, which is no file of a model, and might be code. "
            f"Get it again with: rm -r {folder}"
        )


def _warm_up(made: Artifact, known: Examples) -> None:
    if not len(known.expected):
        raise ArtifactError(
            f"{made.folder} has no example to be tested on. Make it again with: dvc repro"
        )
    for rows in WARM_ROWS:
        taken = np.resize(np.arange(len(known.expected)), rows)
        answers = made.run({name: values[taken] for name, values in known.feeds.items()})
        if answers.shape != made.shape(rows) or not np.all((answers >= 0) & (answers <= 1)):
            raise ArtifactError(
                f"{made.folder} answers {rows} of its examples with what are no {rows} "
                "probabilities. Make it again with: dvc repro"
            )
