"""Where the stack keeps its files: all under .perennial of the project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    root: Path

    @property
    def home(self) -> Path:
        return self.root / ".perennial" / "stack"

    @property
    def records(self) -> Path:
        """One file for each part that was started: its process, and how it is stopped."""
        return self.home / "parts"

    def record(self, part: str) -> Path:
        return self.records / f"{part}.json"

    def log(self, part: str) -> Path:
        return self.home / "logs" / f"{part}.log"

    @property
    def choices(self) -> Path:
        return self.home / "choices.json"

    @property
    def lock(self) -> Path:
        return self.root / ".perennial" / "locks" / "stack.lock"

    @property
    def secrets(self) -> Path:
        return self.home / "secrets"

    @property
    def airflow(self) -> Path:
        return self.root / ".perennial" / "airflow"

    @property
    def airflow_database(self) -> Path:
        return self.airflow / "airflow.db"

    @property
    def postgres(self) -> Path:
        """Owned by the user that PostgreSQL runs as."""
        return self.home / "postgres"

    @property
    def cluster(self) -> Path:
        return self.postgres / "data"
