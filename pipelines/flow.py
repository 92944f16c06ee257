"""The order of the steps, written once; `dvc.yaml`, the CLI and the DAGs are tested against it.

Standard library only: an Airflow DAG imports this file at parse time.
"""

PURE = ("ingest", "validate", "prepare", "train", "evaluate")
"""Files in, files out: `dvc.yaml`. Nothing here moves an alias."""

WATCH = ("labels", "monitor", "policy")
"""Reads what was answered and what came of it; ends in retrain or rest."""

ACT = ("register", "gate", "promote")
"""Changes the registry: never cached, always on the ledger."""

TICK = ("ingest", "validate", *WATCH, "prepare", "train", "evaluate", *ACT, "score")
"""One pass of the loop for one new batch. The steps between `policy` and `score` run when the
policy says retrain; scoring comes last, so a batch is answered by the best model known by then."""
