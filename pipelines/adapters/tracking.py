"""Runs in MLflow: what a training was given, how it went, and the model that came of it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipelines import artifact
from pipelines.adapters.mlflow_home import configure, experiment, reaching
from pipelines.adapters.mlflow_model import log_model, logged_model
from pipelines.errors import RegistryError
from pipelines.lock import alive
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.prepared import Prepared
from pipelines.provenance import Provenance
from pipelines.records import DataHash

log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
"""Metrics wait this long for company: one call for many is 25 times cheaper than one each."""
STOPPED = (KeyboardInterrupt, SystemExit)
"""What ends a training that somebody stopped: Ctrl-C, and SIGTERM as the command line turns it."""
SAMPLE_SECONDS = 5.0
"""From one look at processor, memory and GPU to the next."""
TRAINED_BY = {"period", "calendar", "min_category", "window", "train"}
"""The settings shown as a run's parameters: what a training depends on."""


class TrainingRun:
    """One run, open."""

    def __init__(self, uri: str, run_id: str, experiment_id: str, tags: Mapping[str, str]) -> None:
        import mlflow

        self.id = run_id
        self._uri = uri
        self._experiment = experiment_id
        self._tags = dict(tags)
        self._client = mlflow.MlflowClient()
        self._waiting: list[Any] = []
        self._step = 0
        self._sent = time.monotonic()
        # Of its own, so that a server that takes its time does not keep the training waiting.
        self._sender = ThreadPoolExecutor(1, "mlflow")
        self._sending: Future[None] | None = None

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """epoch from 0. Steps count from 1: MLflow copies what it finds at step 0 to the model."""
        self._step = epoch + 1
        self._waiting += as_metrics(values, self._step)
        busy = self._sending is not None and not self._sending.done()
        if not busy and time.monotonic() - self._sent >= FLUSH_SECONDS:
            self._sending = self._sender.submit(self._try_to_send, epoch)
            self._sent = time.monotonic()

    def _try_to_send(self, epoch: int) -> None:
        try:
            with reaching(self._uri):
                self._send()
        except RegistryError as error:
            # A server that restarts must not cost a training of hours; the end will insist.
            log.warning("epoch %d: metrics kept for later: %s", epoch + 1, error)

    def model(self, folder: Path, metrics: Mapping[str, float]) -> str:
        """Log the artifact in `folder`, then its metrics; returns the address of the model."""
        with reaching(self._uri):
            model_id = log_model(artifact.load(folder), self._experiment, self._tags, self.id)
            self._flush()
            # One step after the last epoch, so that the run's own page shows the final values.
            final = as_metrics(metrics, self._step + 1, model_id)
            self._client.log_batch(self.id, metrics=final)
        return f"models:/{model_id}"

    def file(self, path: Path) -> None:
        with reaching(self._uri):
            self._client.log_artifact(self.id, str(path))

    def _flush(self) -> None:
        self._sender.shutdown()
        if self._sending is not None:
            self._sending.result()  # whatever it raised that was no server out of reach
        self._send()

    def _send(self) -> None:
        """Epochs may be added at the end while it sends."""
        while some := self._waiting[:1000]:
            self._client.log_batch(self.id, metrics=some)
            del self._waiting[: len(some)]

    def _end(self, status: str) -> None:
        self._flush()
        self._client.set_terminated(self.id, status)


@contextlib.contextmanager
def training_run(
    at: Paths, name: str, task: Task, prepared: Prepared, provenance: Provenance, reason: str
) -> Iterator[TrainingRun]:
    """FAILED when the block raises, KILLED when a person stops it, FINISHED otherwise.

    reason: why this training was asked for. Raises RegistryError when MLflow is out of reach.
    """
    uri = configure(at)
    import mlflow

    model_tags = {
        "task": name,
        "window.last": prepared.last,
        "git.commit": provenance.git_commit,
        "git.dirty": str(provenance.git_dirty).lower(),
        "requirements": provenance.requirements,
    }
    with reaching(uri):
        client = mlflow.MlflowClient()
        where = experiment(at, name)
        bury_the_dead(client, where)
        run = client.create_run(
            where,
            tags=model_tags | process_tags(provenance) | {"reason": reason},
            run_name=f"{prepared.last} {task.train.family}",
        )
        params = flattened(task.model_dump(mode="json", include=TRAINED_BY))
        client.log_batch(run.info.run_id, params=[as_param(k, v) for k, v in params.items()])
        client.log_inputs(run.info.run_id, [_dataset(at, name, d) for d in prepared.data])
    logged = TrainingRun(uri, run.info.run_id, where, model_tags)
    try:
        with _system_metrics(run.info.run_id, uri):
            yield logged
    except BaseException as error:
        _end_badly(logged, "KILLED" if isinstance(error, STOPPED) else "FAILED")
        raise
    with reaching(uri):
        logged._end("FINISHED")


@contextlib.contextmanager
def _system_metrics(run_id: str, uri: str) -> Iterator[None]:
    """Processor, memory, disk, network and GPU while the block runs, as MLflow samples them."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, sampling_interval=SAMPLE_SECONDS, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def log_evaluation(
    at: Paths, name: str, digest: str, summary: Mapping[str, float], report: Path
) -> None:
    """Add test metrics and the report to the run that made the artifact; repeating adds nothing."""
    uri = configure(at)
    import mlflow

    with reaching(uri):
        model = logged_model(at, name, digest)
        if model is None or not model.source_run_id:
            log.info("evaluate %s: MLflow has no run of artifact %s to add to", name, digest)
            return
        client = mlflow.MlflowClient()
        known = client.get_run(model.source_run_id).data.metrics
        new = {k: v for k, v in summary.items() if known.get(k) != v}
        if new:
            metrics = as_metrics(new, 0, model.model_id)
            client.log_batch(model.source_run_id, metrics=metrics)
            client.log_artifacts(model.source_run_id, str(report), "report")


def as_metrics(values: Mapping[str, float], step: int, model_id: str | None = None) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(v), now, step, model_id=model_id) for name, v in values.items()]


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names, the spelling that `dvc exp run -S` takes."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def as_param(name: str, value: str) -> Any:
    from mlflow.entities import Param

    return Param(name, value)


def _dataset(at: Paths, name: str, data: DataHash) -> Any:
    """Our own digest: MLflow's looks at the first 10,000 rows only, and skips times."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": str(at.batch(data.period).relative_to(at.root))})
    return DatasetInput(
        Dataset(f"{name} {data.period}", data.md5, "local", source, profile=f"{data.rows} rows"),
        [InputTag("mlflow.data.context", "training"), InputTag("validation", data.validation)],
    )


def process_tags(provenance: Provenance) -> dict[str, str]:
    return {
        "process": f"{socket.gethostname()}:{os.getpid()}",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "mlflow.source.name": "perennial",
        "mlflow.source.git.commit": provenance.git_commit,
    }


def bury_the_dead(client: Any, experiment_id: str) -> None:
    """Runs of this machine whose process is gone: kill -9 leaves them RUNNING for ever."""
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        host, _, pid = run.data.tags.get("process", "").rpartition(":")
        if host == socket.gethostname() and not alive(int(pid)):
            client.set_terminated(run.info.run_id, "KILLED")
            log.info("run %s: its process %s is gone, marked KILLED", run.info.run_id, pid)


def _end_badly(logged: TrainingRun, status: str) -> None:
    """The failure that is on its way out matters more than one of MLflow's on top of it."""
    try:
        logged._end(status)
    except Exception:  # any of MLflow's, the store's or the network's
        log.exception("run %s could not be marked %s", logged.id, status)
