"""A version's artifact on its way from the registry to this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines import artifact, store
from pipelines.adapters.mlflow_home import configure, reaching
from pipelines.errors import ArtifactError
from pipelines.paths import Paths


def download(at: Paths, version: str, target: Path, expected: str | None) -> None:
    """The artifact's files to the folder `target`, atomically.

    expected: digest of the artifact as registered. Raises ArtifactError when it is another one now.
    """
    uri, name = configure(at), at.registered_name
    import mlflow

    with store.atomic_folder(target) as folder:
        with reaching(uri):
            files = Path(
                mlflow.artifacts.download_artifacts(
                    f"models:/{name}/{version}", dst_path=str(folder / "all")
                )
            )
        for file in (*artifact.FILES, "manifest.json"):
            if (files / file).is_file():
                (files / file).rename(folder / file)
        shutil.rmtree(folder / "all")
        found = artifact.load(folder).digest
        if expected and found != expected:
            raise ArtifactError(
                f"{name} version {version} was registered as artifact {expected}, and the "
                f"registry now holds {found}. Go back with: perennial rollback {at.task}"
            )


def digest_at(folder: Path) -> str | None:
    """Digest of the artifact in `folder`; None when it is not there or not whole."""
    try:
        return artifact.load(folder).digest
    except ArtifactError:
        return None
