"""The page at `/`, for a person: what the model is, and a form to ask it.

It works from one folder of files and the service's own answers: nothing is fetched from elsewhere.
"""

from __future__ import annotations

import datetime as dt
import os
import shlex
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pipelines import store
from pipelines.contract import Contract
from pipelines.project import Project
from pipelines.service import wanted
from pipelines.service.pages import form
from pipelines.service.state import Model
from pipelines.wire.problem import Refused

if TYPE_CHECKING:
    from jinja2 import Environment

    from pipelines.service.worker import Worker
    from pipelines.wire.read import Wire

HERE = Path(__file__).parent
MEDIA = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
TRACKING, LOCAL = "MLFLOW_TRACKING_URI", "sqlite:///.mlflow/mlflow.db"


def html(project: Project, worker: Worker) -> str:
    model, label = worker.live.champion, project.contract.label
    row = example(worker)
    said = project.contract.columns[label].description
    return render(
        "page.html",
        task=project.name,
        description=project.contract.description,
        model=model,
        since=moment(model.since) if model else "",
        label=label,
        question=f"{_question(project.contract)} {said}".strip(),
        filled=row is not None,
        made_up=row is not None and any(project.contract.columns[name].personal for name in row),
        fields=form.inputs(worker.wire.shape.fields, row),
        notices=notices(worker.live.state(), worker.live.waiting_for, time.time()),
        facts=facts(project, model, worker.live.challenger) if model else (),
        mlflow=mlflow(project.at.registered_name, model.version if model else None),
    )


def example(worker: Worker) -> dict[str, Any] | None:
    """A real row that the live model was tested on, as a request has it, but for what is personal in
    it; None without one."""
    model = worker.live.champion
    if model is None:
        return None
    row = _example(worker.wire, model.artifact.folder, model.artifact.digest)
    return None if row is None else dict(row)


@lru_cache(maxsize=4)
def _example(wire: Wire, folder: Path, digest: str) -> dict[str, Any] | None:
    """digest: a folder may be made anew with other files."""
    try:
        return wire.example(store.frame(folder / "examples.parquet"))
    except (Refused, ValueError, OSError):  # a narrower contract, or a folder that is gone
        return None


def asset(name: str) -> tuple[str, str]:
    """(text, media type); raises HTTPException 404 for any other name than the page's own."""
    if name not in MEDIA:
        from starlette.exceptions import HTTPException

        raise HTTPException(404)
    return _text(name), MEDIA[name]


@lru_cache
def _text(name: str) -> str:
    return (HERE / "static" / name).read_text(encoding="utf-8")


def render(template: str, **values: Any) -> str:
    """Every value is escaped; a name that the template has and the values lack is an error."""
    return _templates().get_template(template).render(**values)


@lru_cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def facts(project: Project, model: Model, challenger: Model | None) -> tuple[tuple[str, str], ...]:
    """What a person asks first of a model, in that order."""
    about, asked = model.artifact.about, project.task.serve.challenger
    share = f"{100 * asked.share:g} % of requests"
    told = {
        "Version": model.version,
        "Family": about.family,
        "Trained on": " to ".join(about.window.values()),
        "Rows": ", ".join(f"{rows:,} {part}" for part, rows in about.rows.items()),
        "Newest row": moment(about.trained_until, zone=""),
    }
    rate = f"{100 * about.baseline_rate:.1f} % of the training rows"
    if project.contract.classes:
        told |= {"Classes": ", ".join(project.contract.classes), "The commonest": rate}
    else:
        told |= {
            f"{project.contract.label} = 1": rate,
            "Threshold": f"{model.threshold:.3f}: from there on the prediction is 1",
        }
    told |= {_measure(name): f"{value:.3f}" for name, value in about.metrics.items()}
    if challenger is not None and asked.route != "off":
        does = "answers" if asked.route == "canary" else "predicts beside, unheard, on"
        told["Challenger"] = f"version {challenger.version} {does} {share}"
    return (*told.items(), ("Artifact", model.artifact.digest))


def _question(contract: Contract) -> str:
    if contract.classes:
        return f"Which {contract.label} is it: {', '.join(contract.classes)}?"
    return f"Is {contract.label} 1 or 0?"


def _measure(name: str) -> str:
    words = name.replace("_", " ").replace("auc", "AUC")
    return words[:1].upper() + words[1:]


def notices(state: dict[str, Any], waiting_for: Callable[[], str], now: float) -> tuple[str, ...]:
    """What is not as it should be, each in one sentence. state: of Live."""
    told = []
    if state["champion"] is None:
        told.append(f"No version answers: {waiting_for()}.")
    if state["said"] and not any(state["said"] in one for one in told):
        told.append(state["said"])
    for version, refusal in state["refused"].items():
        told.append(f"Version {version} is refused since {refusal['since']}: {refusal['reason']}")
    for slot, failure in state["failed"].items():
        told.append(f"The {slot}, version {failure['version']}, does not load: {failure['reason']}")
    if off := state.get("challenger_off"):
        told.append(f"The challenger, version {off['version']}, lost its traffic: {off['reason']}")
    if not state["registry"]["reachable"]:
        told.append(
            f"The registry is out of reach since {state['registry']['since']}, so a promotion is not "
            f"seen. Requests are answered as before. It says: {state['registry']['error']}"
        )
    if state["upkeep"].get("failing"):
        told.append(
            "The upkeep of the log fails, so answers stay in journals, or for longer than they should: "
            f"{state['upkeep'].get('error', '')}"
        )
    looked, unreadable = state["keeper"]["looked_at"], state["keeper"]["unreadable"]
    if unreadable:
        told.append(f"What the keeper wrote cannot be read: {unreadable}")
    elif looked and now - dt.datetime.fromisoformat(looked).timestamp() > wanted.QUIET_SECONDS:
        told.append(f"The keeper, which follows the registry, has not looked since {looked}.")
    return tuple(told)


def moment(at: float, zone: str = " UTC") -> str:
    return f"{dt.datetime.fromtimestamp(at, dt.UTC):%Y-%m-%d %H:%M:%S}{zone}"


def mlflow(name: str, version: str | None) -> dict[str, str]:
    """The address of the version in MLflow's own pages, else the command that opens them.

    Whatever stands before the host or behind the path is left out: it may be a password.
    """
    uri = os.environ.get(TRACKING) or LOCAL
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme not in ("http", "https"):
        bare = uri.partition("?")[0]
        shown = f"{parts.scheme}://{host}{parts.path}" if parts.netloc else bare
        return {"address": "", "command": f"mlflow ui --backend-store-uri {shlex.quote(shown)}"}
    page = f"/#/models/{quote(name, safe='')}"
    page += f"/versions/{quote(version, safe='')}" if version else ""
    return {"address": f"{parts.scheme}://{host}{parts.path.rstrip('/')}{page}", "command": ""}
