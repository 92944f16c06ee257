"""What tests share: a project folder of their own, and small tables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from pipelines.adapters import mlflow_home

# A busy machine is no failure of a property.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def no_registry_of_another_test() -> Iterator[None]:
    """Whoever reaches MLflow in this process leaves the store's address in the environment."""
    os.environ.pop(mlflow_home.VARIABLE, None)
    yield
    os.environ.pop(mlflow_home.VARIABLE, None)


@pytest.fixture
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository's settings and contracts in an empty folder, which is the working folder."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    shutil.copytree(REPOSITORY / "contracts", tmp_path / "contracts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PERENNIAL_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def perennial(project_folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The real command, in the project folder."""

    def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines", *words]
        return subprocess.run(
            command, cwd=project_folder, capture_output=True, text=True, timeout=300,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=False,
        )  # fmt: skip

    return run


def shop(days: int = 120, rows_a_day: int = 60, seed: int = 0) -> pd.DataFrame:
    """Orders of a made-up shop: will one be returned? A signal that a model can learn."""
    random = np.random.default_rng(seed)
    n = days * rows_a_day
    ordered = pd.Timestamp("2024-01-01") + pd.to_timedelta(
        np.sort(random.integers(0, days * 86_400, n)), unit="s"
    )
    price = random.lognormal(3, 0.6, n).round(2)
    country = random.choice(["DE", "FR", "NL"], n, p=[0.5, 0.3, 0.2])
    score = 1.2 * np.log(price / 20) + np.where(country == "FR", 1.0, -0.5)
    weight = np.where(random.random(n) < 0.05, np.nan, random.normal(2, 0.5, n).round(3))
    return pd.DataFrame(
        {
            "ordered_at": ordered.astype("datetime64[s]"),
            "order": np.arange(n),
            "country": country,
            "price": price,
            "weight": weight,
            "returned": (random.random(n) < 1 / (1 + np.exp(-2 * score))).astype("int64"),
        }
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What `git clone` of this working tree gives, committed."""
    folder = tmp_path / "clone"
    folder.mkdir()
    git = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(git, capture_output=True, text=True, check=True).stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    who = ["-c", "user.name=tester", "-c", "user.email=tester@example.com"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "start"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.fixture
def shell(clone: Path) -> Callable[[str], str]:
    """Runs a script in the clone, with the commands of this environment; returns what it printed."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": str(clone)}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "tester", f"GIT_{who}_EMAIL": "tester@example.com"}
    for name in ("PERENNIAL_ROOT", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)

    def run(script: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=clone, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    return run
