"""Versions of a task's model and the aliases that say which one answers.

MLflow has no compare-and-set: the last writer of an alias wins, and nobody is told. So every move
is made under a lock file of this machine and read back. Not covered: two machines that promote on
one server within the same milliseconds; the later one wins and the earlier one may not hear of it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pipelines import store
from pipelines.adapters.mlflow_home import configure, reaching
from pipelines.adapters.mlflow_model import new_version
from pipelines.adapters.registry_files import digest_at, download
from pipelines.artifact import Artifact
from pipelines.errors import RegistryError, UnknownId
from pipelines.lock import task_lock
from pipelines.paths import Paths

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
PLACED = "champion_placed"
"""The model's tag: the version that champion was last moved to from here. Where the alias is on
another one, a person moved it in MLflow, which writes no `previous`."""
APART = dt.timedelta(minutes=5)
"""Most that the clocks of this machine and of the registry's are thought to differ."""
PENDING = "pending"
"""The tag `verdict` of a version that the gate has registered and not judged yet."""

Verify = Callable[[str], None]
"""Raises when the version it is given must not answer: it does not load, or answers wrongly."""


class Registry:
    """One task's versions. Every method raises RegistryError when MLflow refuses or is away."""

    def __init__(self, at: Paths) -> None:
        self.at = at
        self.name = at.registered_name

    def register(self, made: Artifact, tags: Mapping[str, str] = MappingProxyType({})) -> str:
        """The artifact's version, made with `tags` when there is none yet, and named challenger.

        The same artifact is the same version, so a run that was killed and is repeated finds its
        own. Only a model whose upload was finished is registered; without one it is uploaded now.
        """
        with self._locked("register"), self._client() as client:
            same = [v for v in self._search(client) if v.tags.get("artifact") == made.digest]
            version = str(same[0].version) if same else new_version(client, self.at, made, tags)
            if version not in (self.alias(CHAMPION), self.alias(CHALLENGER)):
                client.set_registered_model_alias(self.name, CHALLENGER, version)
        return version

    def aliases(self) -> dict[str, str]:
        """Alias -> version; empty before the first registration."""
        return _aliases(self._model())

    def _model(self) -> Any:
        """As MLflow has it; None before the first registration."""
        from mlflow.exceptions import MlflowException

        with self._client() as client:
            try:
                return client.get_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None

    def alias(self, name: str) -> str | None:
        return self.aliases().get(name)

    def versions(self) -> tuple[str, ...]:
        """Oldest first."""
        with self._client() as client:
            return tuple(sorted((str(v.version) for v in self._search(client)), key=int))

    def tags(self, version: str) -> dict[str, str]:
        return dict(self._version(version).tags)

    def set_tags(self, version: str, tags: Mapping[str, str]) -> None:
        """In the order given: put last what others rely on."""
        with self._client() as client:
            for name, value in tags.items():
                client.set_model_version_tag(self.name, version, name, value)

    def made_at(self, version: str) -> dt.datetime:
        """When it was registered, UTC, without a zone, as the log of answers has its times.

        What answered before under this number was of a registry that is no more. Told APART early: the
        time is the server's.
        """
        made = self._version(version).creation_timestamp / 1000
        return dt.datetime.fromtimestamp(made, dt.UTC).replace(tzinfo=None) - APART

    def run_of(self, version: str) -> str:
        """Id of the MLflow run that made the version; empty when it came from elsewhere."""
        return str(self._version(version).run_id or "")

    def fetch(self, version: str) -> Path:
        """Folder of the version's artifact, downloaded once and checked to be what was registered.

        Raises ArtifactError when the registry's files are missing, altered or another model's.
        """
        expected = self.tags(version).get("artifact")
        target = self.at.models_cache / version
        # A lock for each version: a champion must not wait for a challenger that is slow to come.
        with self._locked(f"fetch-{version}"):
            if not expected or digest_at(target) != expected:
                store.sweep(self.at.models_cache, f"{version}.")
                download(self.at, version, target, expected)
        return target

    def promote(self, version: str, expect: str | None, verify: Verify) -> bool:
        """Compare-and-set: champion becomes `version` if it is `expect`; False when it was already.

        `previous` is written first, then `champion`, and only after `verify` passed: killed at any
        moment, each alias names a version that loads.
        """
        with self._locked("alias"):
            verify(version)
            now = self.aliases()
            if now.get(CHAMPION) == version:
                # Killed before these lines the last time, it would stand beside itself.
                self._no_challenger(version, now)
                self._placed(version)
                return False
            if now.get(CHAMPION) != expect:
                raise RegistryError(
                    f"{self.name} version {version} was to replace {expect or 'no champion'}, and "
                    f"version {now.get(CHAMPION) or 'none'} was promoted meanwhile; nothing was "
                    "changed. Judge it against that one with: "
                    f"perennial retrain {self.at.task} --reason <why>, "
                    f"or perennial gate {self.at.task} where dvc repro made it"
                )
            with self._client() as client:
                if expect is not None:
                    client.set_registered_model_alias(self.name, PREVIOUS, expect)
                    client.set_registered_model_tag(self.name, PLACED, expect)
                client.set_registered_model_alias(self.name, CHAMPION, version)
            self._placed(version)
            self._no_challenger(version, now)
            self._read_back(version)
            return True

    def _placed(self, version: str) -> None:
        """A promotion to its end. Where `previous` is not what was placed, the move was by hand."""
        model = self._model()
        if model.tags.get(PLACED) == _aliases(model).get(PREVIOUS):
            with self._client() as client:
                client.set_registered_model_tag(self.name, PLACED, version)

    def _no_challenger(self, version: str, now: dict[str, str]) -> None:
        """A champion is no challenger any more."""
        if now.get(CHALLENGER) == version:
            with self._client() as client:
                client.delete_registered_model_alias(self.name, CHALLENGER)

    def before(self) -> str | None:
        """The version that a rollback goes to: `previous`, or, where a person moved champion in
        MLflow since, the one that it was on before."""
        return _before(self._model())

    def rollback(self, verify: Verify) -> tuple[str, str | None]:
        """Champion becomes the one before: (version now, version before; None when there already).

        It becomes `previous` as well, so that the same command after a kill changes nothing more.
        """
        with self._locked("alias"):
            model = self._model()
            to, left = _before(model), _aliases(model).get(CHAMPION)
            if to is None:
                raise RegistryError(
                    f"{self.name} has no previous champion to go back to; versions are: "
                    f"{', '.join(self.versions()) or 'none'}. Choose one with: "
                    f"perennial promote {self.at.task} --version <version> --force"
                )
            if to == left:
                return to, None
            verify(to)
            with self._client() as client:
                client.set_registered_model_alias(self.name, PREVIOUS, to)
                client.set_registered_model_tag(self.name, PLACED, to)
                client.set_registered_model_alias(self.name, CHAMPION, to)
            self._read_back(to)
            return to, left

    @contextlib.contextmanager
    def _client(self) -> Iterator[MlflowClient]:
        uri = configure(self.at)
        import mlflow

        with reaching(uri):
            yield mlflow.MlflowClient()

    def _locked(self, what: str) -> contextlib.AbstractContextManager[None]:
        """A lock of its own, held for moments: a person may promote while a tick holds the task."""
        lock = self.at.lock.with_name(f"{self.at.lock.stem}-{what}.lock")
        return task_lock(lock, f"{what} of {self.name}", wait=True)

    def _read_back(self, version: str) -> None:
        now = self.alias(CHAMPION)
        if now != version:
            raise RegistryError(
                f"champion of {self.name} was set to version {version} and is {now or 'none'}: "
                "another machine promoted at the same moment. See it with: perennial status"
            )

    def _search(self, client: MlflowClient) -> list[Any]:
        return list(client.search_model_versions(f"name = '{self.name}'", max_results=10_000))

    def _version(self, version: str) -> Any:
        from mlflow.exceptions import MlflowException

        with self._client() as client:
            try:
                return client.get_model_version(self.name, version)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
        raise UnknownId(
            f"{self.name} has no version {version!r}; it has: "
            f"{', '.join(self.versions()) or 'none'}. See what there is with: perennial status"
        )


def _aliases(model: Any) -> dict[str, str]:
    return {alias: str(version) for alias, version in (model.aliases if model else {}).items()}


def _before(model: Any) -> str | None:
    aliases = _aliases(model)
    placed: str | None = model.tags.get(PLACED) if model else None
    by_hand = placed is not None and placed != aliases.get(CHAMPION)
    return placed if by_hand else aliases.get(PREVIOUS)
