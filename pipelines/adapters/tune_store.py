"""The database that Optuna keeps trials in: where it is, and how its failures become ours."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from pipelines.errors import RegistryError
from pipelines.paths import Paths

VARIABLE = "PERENNIAL_TUNE_STORE"
"""URL of a database to keep studies in, e.g. postgresql+psycopg2://me@host/tune."""


def storage_url(at: Paths) -> str:
    """A SQLite file of this project, or what PERENNIAL_TUNE_STORE names."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    at.tune.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{at.tune}"


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """A database's failures as RegistryError, which names it without its password."""
    import sqlalchemy
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        cause = error.__cause__ or error
        said = " ".join(str(cause).split())[:300]
        raise RegistryError(
            f"the trials' database {_shown(url)}: {said}. See whether it answers, or use the file of "
            f"this project with: unset {VARIABLE}"
        ) from error


def _shown(url: str) -> str:
    import sqlalchemy

    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return f"of {VARIABLE}"
