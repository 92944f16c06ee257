"""Every file name, in flow order, spelled once. `ls data/` is the diagram of the flow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PARAMS = "params.yaml"


def project_root() -> Path:
    """The nearest folder upwards that holds params.yaml; PERENNIAL_ROOT names it outright."""
    named = os.environ.get("PERENNIAL_ROOT")
    start = Path(named).resolve() if named else Path.cwd()
    for folder in (start, *start.parents):
        if (folder / PARAMS).is_file():
            return folder
    return start


def sources_root(root: Path) -> Path:
    """What params.yaml names outside of data/ is found from here, and what shall outlive a retraining
    is kept: it runs in a worktree, and that lies beside the project's own checkout."""
    return Path(os.environ.get("PERENNIAL_SOURCES", root))


@dataclass(frozen=True)
class Paths:
    """Where one task's files live. A step reads a lower number and writes the next one.

    `candidate` moves 3_prepared to 5_report into a folder of their own, so that a retraining by
    `tick` never writes over what `dvc repro` made. `replay` moves all that the loop writes.
    """

    root: Path
    task: str
    candidate: str | None = None
    replay: str | None = None

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def params(self) -> Path:
        return self.root / PARAMS

    @property
    def contract(self) -> Path:
        return self.root / "contracts" / f"{self.task}.yaml"

    # 1 and 2: batches and what validation said of them
    @property
    def raw(self) -> Path:
        return self.data / "1_raw" / self.task

    def batch(self, period: str) -> Path:
        return self.raw / f"{period}.parquet"

    @property
    def valid(self) -> Path:
        return self.data / "2_valid" / self.task

    def validation(self, period: str) -> Path:
        return self.valid / f"{period}.json"

    def validation_page(self, period: str) -> Path:
        return self.valid / f"{period}.html"

    @property
    def quarantine(self) -> Path:
        return self.data / "2_quarantine" / self.task

    def quarantined(self, period: str, content: str) -> Path:
        """Folder of one refused batch: batch.parquet, result.json, report.html."""
        return self.quarantine / f"{period}-{content[:8]}"

    @property
    def data_docs(self) -> Path:
        return self.data / "2_docs" / self.task

    # 3 to 5: one training
    def _training(self, folder: str) -> Path:
        if self.candidate is None:
            return self.data / folder / self.task
        return self._candidates / self.candidate / folder

    @property
    def _candidates(self) -> Path:
        """Replay's policies share their trainings: the same window gives the same model."""
        home = self.live if self.replay is None else self.live.parent
        return home / "candidates"

    @property
    def prepared(self) -> Path:
        return self._training("3_prepared")

    @property
    def model(self) -> Path:
        return self._training("4_model")

    @property
    def curves(self) -> Path:
        """Losses and metrics by epoch, beside the model: `4_model/<task>.curves.csv`."""
        return self.model.with_name(f"{self.model.name}.curves.csv")

    @property
    def report(self) -> Path:
        return self._training("5_report")

    # 6: the live half
    @property
    def live(self) -> Path:
        if self.replay is None:
            return self.data / "6_live" / self.task
        return self.data / "7_replay" / self.task / self.replay

    def predictions(self, period: str) -> Path:
        return self.live / "predictions" / f"{period}.parquet"

    def labels(self, period: str) -> Path:
        return self.live / "labels" / f"{period}.parquet"

    def asked(self, period: str) -> Path:
        """Which prediction id each row got from the service."""
        return self.live / "asked" / f"{period}.parquet"

    def alarm(self, period: str) -> Path:
        return self.live / "alarms" / f"{period}.json"

    def drift_page(self, period: str) -> Path:
        return self.live / "drift" / f"{period}.html"

    def verdict(self, period: str) -> Path:
        return self.live / "verdicts" / f"{period}.json"

    def tick(self, period: str) -> Path:
        return self.live / "ticks" / f"{period}.json"

    @property
    def ledger(self) -> Path:
        return self.live / "ledger.jsonl"

    # beside the data: what this machine keeps for itself
    @property
    def mlflow(self) -> Path:
        return self.root / ".mlflow" if self.replay is None else self.live.parent / "mlflow"

    @property
    def registered_name(self) -> str:
        """The registry's model name: the task, or the task and the replayed policy."""
        return self.task if self.replay is None else f"{self.task}-{self.replay}"

    @property
    def lock(self) -> Path:
        name = self.task if self.replay is None else f"{self.task}-{self.replay}"
        return self.root / ".perennial" / "locks" / f"{name}.lock"

    @property
    def models_cache(self) -> Path:
        """Registry versions fetched to answer with, by version."""
        return self.root / ".perennial" / "models" / self.registered_name

    @property
    def worktree(self) -> Path:
        """A retraining's own checkout: `git worktree`, one a task."""
        return self.root / ".perennial" / "worktrees" / self.task

    @property
    def workspace(self) -> Path:
        """Why that retraining is made, and who makes it."""
        return self.worktree.with_name(f"{self.task}.json")

    @property
    def tune(self) -> Path:
        """SQLite: every trial of `perennial tune`, for the next one to go on from."""
        return self.root / ".perennial" / "tune" / f"{self.task}.db"

    @property
    def tune_lock(self) -> Path:
        """Held by the one process that tunes."""
        return self.lock.with_name(f"{self.lock.stem}-tune.lock")

    @property
    def training(self) -> Path:
        """What a killed training goes on from; by flag its trace and events. A retraining's lies in the
        project too, whose worktree would take it along when it goes."""
        return sources_root(self.root) / ".perennial" / "training" / self.lock.stem

    # the service: what it was asked over HTTP and answered, and what this machine keeps for it
    @property
    def served(self) -> Path:
        return self.data / "6_served" / self.task

    def served_day(self, day: str) -> Path:
        """Folder of one day's answers, UTC, e.g. 2013-04-01: Parquet files."""
        return self.served / "answers" / day

    @property
    def journals(self) -> Path:
        """What a worker writes while it answers; each becomes a Parquet file when it is closed."""
        return self.served / "journals"

    @property
    def served_labels(self) -> Path:
        """SQLite: label by prediction id."""
        return self.served / "labels.db"

    @property
    def service(self) -> Path:
        return self.root / ".perennial" / "service" / self.task

    @property
    def wanted(self) -> Path:
        """The version that the workers shall answer with; written by the keeper."""
        return self.service / "wanted.json"

    @property
    def wake(self) -> Path:
        """Touched to make the keeper look at the registry at once."""
        return self.service / "wake"

    # files of rows: what the champion answered them, for those who handed them in
    @property
    def scored(self) -> Path:
        return self.data / "6_scored" / self.task

    @property
    def served_files(self) -> Path:
        """One record for each file of rows that was answered: which version, under which ids."""
        return self.served / "files"

    @property
    def score_lock(self) -> Path:
        """Held by the one process that answers files."""
        return self.lock.with_name(f"{self.lock.stem}-score.lock")
