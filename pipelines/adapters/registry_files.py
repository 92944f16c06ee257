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

    expected: digest of the artifact as registered. Raises ArtifactError when it is another one now,
    or gone; RegistryError where the registry cannot be asked.
    """
    uri, name = configure(at), at.registered_name
    import mlflow

    with store.atomic_folder(target) as folder:
        address = f"models:/{name}/{version}"
        with reaching(uri):
            try:
                files = Path(
                    mlflow.artifacts.download_artifacts(address, dst_path=str(folder / "all"))
                )
            except mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise ArtifactError(
                    f"{address} has no files any more: {error}. "
                    f"Go back with: perennial rollback {at.task}"
                ) from error
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
