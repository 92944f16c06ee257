"""A tuning in MLflow: one run for the search, and one inside it for each trial."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.adapters.mlflow_home import configure, experiment, reaching
from pipelines.adapters.tracking import (
    as_metrics,
    as_param,
    bury_the_dead,
    flattened,
    process_tags,
)
from pipelines.paths import Paths
from pipelines.provenance import Provenance

PARENT = "mlflow.parentRunId"


class TuneRun:
    """The run of a search; `before` is its id when the search goes on."""

    def __init__(
        self,
        at: Paths,
        name: str,
        title: str,
        settings: Mapping[str, Any],
        made_by: Provenance,
        before: str | None,
    ) -> None:
        self._uri = configure(at)
        import mlflow

        self._client = mlflow.MlflowClient()
        self._tags = {"task": name, **process_tags(made_by), "reason": f"perennial tune {name}"}
        with reaching(self._uri):
            self._experiment = experiment(at, name)
            bury_the_dead(self._client, self._experiment)
            self.id = self._again(before) if before else None
            if self.id is None:
                run = self._client.create_run(self._experiment, tags=self._tags, run_name=title)
                self.id = str(run.info.run_id)
                params = [as_param(k, v) for k, v in flattened(settings).items()]
                self._client.log_batch(self.id, params=params)

    def _again(self, run: str) -> str | None:
        """The run goes on, unless somebody has deleted it, or the store is another one."""
        from mlflow.exceptions import MlflowException

        try:
            if self._client.get_run(run).info.lifecycle_stage != "active":
                return None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        self._client.update_run(run, status="RUNNING")
        self._client.set_tag(run, "process", self._tags["process"])
        return run

    def trial(self, title: str, index: int, values: Mapping[str, Any]) -> str:
        """Open a trial's run; returns its id."""
        tags = self._tags | {PARENT: str(self.id), "trial": str(index)}
        with reaching(self._uri):
            run = self._client.create_run(self._experiment, tags=tags, run_name=title)
            params = [as_param(k, v) for k, v in flattened(values).items()]
            self._client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def trial_ended(
        self, run: str, scores: Sequence[float], score: float | None, outcome: str
    ) -> None:
        """outcome: complete, stopped early, or why it broke down."""
        steps = [m for i, s in enumerate(scores) for m in as_metrics({"step_auc": s}, i + 1)]
        if score is not None:
            steps += as_metrics({"auc": score}, len(scores))
        with reaching(self._uri):
            self._client.log_batch(run, metrics=steps)
            self._client.set_tag(run, "outcome", outcome[:5000])
            self._client.set_terminated(run, "FINISHED")

    def killed(self, run: str) -> None:
        with reaching(self._uri):
            self._client.set_terminated(run, "KILLED")

    def measured(self, values: Mapping[str, float]) -> None:
        with reaching(self._uri):
            self._client.log_batch(str(self.id), metrics=as_metrics(values, int(time.time())))

    def end(self, status: str) -> None:
        """status: FINISHED, FAILED or KILLED."""
        with reaching(self._uri):
            self._client.set_terminated(str(self.id), status)
