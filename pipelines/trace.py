"""From one answer back to the data that made the model, and how to make it again."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines import periods, store
from pipelines.adapters.registry import PENDING, Registry
from pipelines.artifact import load
from pipelines.errors import UnknownId
from pipelines.journal.frames import parse_id
from pipelines.project import Project
from pipelines.served import answers
from pipelines.served.bodies import stored

BY_HAND = "none: promoted by hand"


def task_of(prediction: str) -> str:
    """The task in the id of a batch's answer, `<task>-<version>-<row>`, or of one over HTTP.

    Raises UnknownId when this is neither.
    """
    served = parse_id(prediction)
    if served is not None:
        return served.task
    parts = prediction.rsplit("-", 2)
    if len(parts) != 3 or not parts[1].isdigit() or len(parts[2]) != 16:
        raise UnknownId(
            f"{prediction!r} is not a prediction id; ids look like flights-3-00f1e2d3c4b5a697 or, "
            "over HTTP, flights-3-20130401-00c0ffee-1f. Find some with: perennial status"
        )
    return parts[0]


def trace(project: Project, prediction: str) -> dict[str, Any]:
    """Raises UnknownId when no logged batch holds the id, or its version is of a registry made anew
    since."""
    answer, period = _find(project, prediction)
    version = str(answer["version"])
    registry = Registry(project.at)
    made = registry.made_at(version)
    if answer["at"] < made:
        raise UnknownId(
            f"trace: {prediction} was answered at {answer['at']:%Y-%m-%d %H:%M:%S} UTC, and version "
            f"{version} of {registry.name} was registered at {made:%Y-%m-%d %H:%M:%S}: that registry "
            "is no more, or was moved, and which model answered is not known. See what there is with: "
            "perennial status"
        )
    model = load(registry.fetch(version))
    tags = registry.tags(version)
    about = model.about
    commit, said = tags.get("git.commit", ""), tags.get("verdict", BY_HAND)
    return {
        "prediction": {
            "id": answer["id"],
            # Of several classes that of the one predicted.
            "probability": float(np.max(answer["probability"])),
            "prediction": answer["prediction"],
            "at": answer["at"],
        },
        "batch": period,
        "route": answer["route"],
        "inputs": {
            name: _shown(answer[stored(name)])
            for name in project.contract.inputs
            if stored(name) in answer
        },
        "model": {"name": project.at.registered_name, "version": version, "digest": model.digest},
        "run": registry.run_of(version),
        "code": {"commit": commit, "dirty": tags.get("git.dirty", "")},
        "params": about.params,
        "data": [d.model_dump(mode="json") for d in about.data],
        "validation": {d.period: _validation(project, d.period) for d in about.data},
        "verdict": said if said != PENDING else BY_HAND,
        "verdict_reason": tags.get("verdict_reason", ""),
        "rebuild": _rebuild(project, commit, tags.get("git.dirty") == "true", about.window["last"]),
    }


def _shown(value: Any) -> Any:
    """A picture's file is named by its size: it is in the log."""
    return f"{len(value):,} bytes" if isinstance(value, bytes) else value


def _find(project: Project, prediction: str) -> tuple[dict[str, Any], str]:
    """The answer with its row as asked, and the period the row lies in."""
    if parse_id(prediction) is not None:
        served = answers.find(project.at, project.contract, prediction)
        if served is not None:
            return served, _period_of(project, served)
    else:
        import pyarrow.parquet as parquet

        for path in sorted(project.at.predictions("x").parent.glob("*.parquet"), reverse=True):
            rows = parquet.read_table(path, filters=[("id", "==", prediction)]).to_pylist()
            if rows:
                return rows[0] | {"route": "batch"}, path.stem
    raise UnknownId(
        f"trace: no logged prediction of {project.name} has the id {prediction!r}. "
        "Find some with: perennial status"
    )


def _period_of(project: Project, served: dict[str, Any]) -> str:
    import pandas as pd

    time = served[stored(project.contract.time)]
    if not isinstance(time, pd.Timestamp) or pd.isna(time):
        return "unknown"
    return str(periods.period_names(pd.Series([time]), project.task.period)[0])


def _validation(project: Project, period: str) -> str:
    path = project.at.validation(period)
    if not path.is_file():
        return f"{path} is gone; make it again with: perennial validate {project.name} --batch {period}"
    found = store.read_json(path, f"perennial validate {project.name} --batch {period}")
    passed = sum(f["passed"] for f in found["findings"])
    said = "accepted" if found["accepted"] else "quarantined"
    return f"{said}, {passed} of {len(found['findings'])} rules held"


def _rebuild(project: Project, commit: str, dirty: bool, last: str) -> list[str]:
    """Commands that make the same model again from the same bytes; a warning where they may not."""
    checkout = (
        [f"git checkout {commit}"] if commit else ["# no commit is known: use the code of then"]
    )
    if dirty:
        said = "# files had changes that were not committed: with the commit alone it may differ"
        checkout = [said, *checkout]
    return [
        *checkout,
        "make setup",
        f"dvc exp run -S tasks.{project.name}.window.last={last} evaluate@{project.name}",
    ]


def _way(route: str) -> str:
    known = {"batch": "", "file": ", in a file of rows"}
    return known.get(route, f", over HTTP by the {route}")


def as_text(found: dict[str, Any]) -> str:
    prediction, model, code = found["prediction"], found["model"], found["code"]
    window = found["params"]["window"]
    dirty = "  (with uncommitted changes)" if code["dirty"] == "true" else ""
    lines = [
        f"prediction  {prediction['id']}",
        f"  answered  {prediction['probability']:.4f} -> {prediction['prediction']}, batch {found['batch']}"
        + _way(found["route"]),
        f"model       {model['name']} version {model['version']}, digest {model['digest']}",
        f"  verdict   {found['verdict']}: {found['verdict_reason']}",
        f"  run       {found['run']}",
        f"  commit    {code['commit'] or 'none'}{dirty}",
        f"  params    window {window['first']}..{window['last']}, {found['params']['train']['family']}, "
        f"seed {found['params']['train']['seed']}",
        "data        (md5 as DVC writes it)",
        *(
            f"  {d['period']}  {d['md5']}  {d['rows']} rows, {found['validation'][d['period']]}"
            for d in found["data"]
        ),
        "make it again with:",
        *(f"  {line}" for line in found["rebuild"]),
    ]
    return "\n".join(lines)
