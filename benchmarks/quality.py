"""Does the loop earn its keep, and is the network as good as boosted trees? `make bench-quality`

Replays 2013 under the three policies for the default model and for scikit-learn's
HistGradientBoosting, in folders of their own. Both see the same windows and columns; "ungated" is
every month answered by the model trained on all that was known, whatever the gate said of it.
The trees that ship read a category's code as a number, since that is what converts to ONNX; their
stronger form, with native categories, is fitted beside them and the better of the two is the rival.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, close
from pipelines import artifact, metrics, replay, store
from pipelines.project import Project, open_project
from pipelines.tasks.base import load_encoder, load_rows

POLICIES = ("frozen", "always", "on-alarm")
LAST = "2013-12"


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    project = open_project("flights")
    told: dict[str, Any] = {}
    for family in ("network", "boosting"):
        told[family] = measure(project, family)
        print(f"\n{family}\n{replay.as_table(told[family]['policies'])}")
        print(f"{'ungated mean':<14}{told[family]['ungated_mean']:.4f}")
    network, boosting = told["network"], told["boosting"]
    print(f"{'native trees':<14}{boosting['native_mean']:.4f}")
    rival = max(boosting["ungated_mean"], boosting["native_mean"])
    policies = network["policies"]
    best = max(POLICIES, key=lambda p: policies[p]["mean_auc"])
    alarm, frozen = policies["on-alarm"], policies["frozen"]
    network_lead = network["ungated_mean"] - rival
    behind = alarm["mean_auc"] - policies[best]["mean_auc"]
    share = alarm["trainings"] / policies["always"]["trainings"]
    earned = alarm["mean_auc"] - frozen["mean_auc"]
    print()
    close(
        "quality",
        [
            Figure("network minus the better trees, ungated", network_lead, -0.003, "at least"),
            Figure(f"on-alarm minus best policy ({best})", behind, -0.005, "at least"),
            Figure("on-alarm trainings over always", share, 0.5, "at most"),
            Figure("on-alarm minus frozen", earned, 0.02, "at least"),
        ],
        told,
    )


def measure(project: Project, family: str) -> dict[str, Any]:
    home = Path(tempfile.mkdtemp(prefix="perennial-quality-"))
    try:
        task = project.task.model_copy(
            update={"train": project.task.train.model_copy(update={"family": family})}
        )
        one = replace(project, task=task, at=replace(project.at, root=home))
        policies = replay.replay(one, POLICIES, LAST)
        ungated, native = by_month(one), native_by_month(one) if family == "boosting" else {}
    finally:
        shutil.rmtree(home)
    told = {"policies": policies, "ungated": ungated, "native": native}
    told["ungated_mean"] = float(np.mean(list(ungated.values())))
    if native:
        told["native_mean"] = float(np.mean(list(native.values())))
    return told


def by_month(project: Project) -> dict[str, float]:
    """AUC on each month of the candidate whose window ends one month before."""
    found = {}
    home = replace(project, at=replace(project.at, replay="always"))
    period = project.shift(project.task.window.last, 1)
    while period <= LAST:
        model = artifact.load(home.ending(project.shift(period, -1)).at.model)
        batch = store.read_table(project.at.batch(period), "perennial replay flights")
        found[period] = metrics.auc(batch[project.contract.label].to_numpy(), model.predict(batch))
        period = project.shift(period, 1)
    return found


def native_by_month(project: Project) -> dict[str, float]:
    """The same for HistGradientBoosting with native categories, which has no ONNX form."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    found = {}
    home = replace(project, at=replace(project.at, replay="always"))
    period = project.shift(project.task.window.last, 1)
    while period <= LAST:
        at = home.ending(project.shift(period, -1)).at
        train, encoder = load_rows(at, "train", project.task), load_encoder(at, project.task)
        trees = HistGradientBoostingClassifier(
            max_iter=200, learning_rate=0.05, min_samples_leaf=100, l2_regularization=10.0,
            max_features=0.3, early_stopping=False, random_state=project.task.train.seed,
            categorical_features=[train.numbers.shape[1] + i for i in range(train.codes.shape[1])],
        )  # fmt: skip
        trees.fit(np.concatenate([train.numbers, train.codes], axis=1), train.label)
        batch = store.read_table(project.at.batch(period), "perennial replay flights")
        numbers, codes = encoder.encode(batch, project.contract)
        answers = trees.predict_proba(np.concatenate([numbers, codes], axis=1))[:, 1]
        found[period] = metrics.auc(batch[project.contract.label].to_numpy(), answers)
        period = project.shift(period, 1)
    return found


if __name__ == "__main__":
    main()
