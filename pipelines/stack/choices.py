"""What a person chooses for the stack, by environment: the store, the ports, where artifacts go.

A choice holds until another is made: `status` in another shell, and `up` after a restart of the
machine, mean the same stack, and nobody who forgets STORE=postgres finds an empty registry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from pipelines import store as files
from pipelines.errors import ParamsError
from pipelines.stack.places import Places

STORES = ("embedded", "postgres")

VARIABLES = {
    "store": "STORE",
    "artifacts": "PERENNIAL_ARTIFACTS",
    "mlflow": "PERENNIAL_PORT_MLFLOW",
    "airflow": "PERENNIAL_PORT_AIRFLOW",
    "service": "PERENNIAL_PORT_SERVICE",
    "postgres": "PERENNIAL_PORT_POSTGRES",
}
"""Field of Choices -> the variable that says it. Empty is as good as unset."""


@dataclass(frozen=True)
class Choices:
    store: str = "embedded"
    artifacts: str = "local"
    """Where MLflow's server keeps artifacts, such as s3://bucket; local: a folder of the project."""
    mlflow: int = 5000
    airflow: int = 8080
    service: int = 3000
    """Port of the first task's service; those of the others follow."""
    postgres: int = 5544


def read(environ: Mapping[str, str], places: Places) -> Choices:
    """Raises ParamsError naming the variable, its value and what is allowed."""
    values = asdict(_last(places))
    for name, variable in VARIABLES.items():
        said = environ.get(variable)
        if said:
            values[name] = _port(variable, said) if isinstance(values[name], int) else said
    if values["store"] not in STORES:
        raise ParamsError(
            f"STORE is {values['store']!r}; it is one of: {', '.join(STORES)}. "
            "Choose SQLite with: STORE=embedded make up"
        )
    return Choices(**values)


def keep(choices: Choices, places: Places) -> None:
    files.write_json(places.choices, asdict(choices))


def _last(places: Places) -> Choices:
    if not places.choices.is_file():
        return Choices()
    try:
        kept = json.loads(places.choices.read_text(encoding="utf-8"))
        # What an older or newer version of this file kept and this one does not know is left out.
        return Choices(**{f.name: kept[f.name] for f in fields(Choices) if f.name in kept})
    except (json.JSONDecodeError, TypeError):
        raise ParamsError(
            f"{places.choices} is not what was written there. Choose anew with: rm {places.choices}"
        ) from None


def _port(variable: str, said: str) -> int:
    if not said.isascii() or not said.isdigit() or not 1 <= int(said) <= 65_535:
        raise ParamsError(
            f"{variable} is {said!r}; a port is a number from 1 to 65535. "
            f"Leave it as it was with: unset {variable}"
        )
    return int(said)
