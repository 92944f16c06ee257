"""Look for better settings of training, on the train rows and on nothing else."""

from __future__ import annotations

import itertools
import statistics
from contextlib import closing
from functools import partial

import numpy as np

from pipelines import params, params_text, store, tuning
from pipelines.adapters.tune_runs import TuneRun
from pipelines.adapters.tune_store import VARIABLE, storage_url
from pipelines.adapters.tuner import PRESENT, Study, Tried
from pipelines.contract import Contract
from pipelines.crew import Crew
from pipelines.errors import MissingInput, ParamsError, PipelineError
from pipelines.params import Task
from pipelines.paths import Paths
from pipelines.prepared import Prepared, load_prepared
from pipelines.provenance import here
from pipelines.records import Record
from pipelines.search import Job, bench, fit_all, quietly, rows_of, search
from pipelines.tasks.base import KINDS
from pipelines.tuning import Fold, Values


class Earned(Record):
    """One outer fold: what a tuning chose that saw only rows before it, judged on its rows."""

    rows: int
    values: Values
    present: float
    tuned: float

    @property
    def gain(self) -> float:
        return self.tuned - self.present


class Outcome(Record):
    study: str
    rows: int
    trials: int
    stopped: int
    """Of them: stopped early, or broken down."""
    present: Tried
    best: Tried
    """The present one, where nothing is better."""
    nested: tuple[Earned, ...] = ()

    @property
    def better(self) -> bool:
        return self.best.index != self.present.index

    @property
    def gains(self) -> list[float]:
        """Of the best over the present settings, by fold."""
        pairs = zip(self.best.scores, self.present.scores, strict=True)
        return [one - other for one, other in pairs]

    @property
    def earned(self) -> tuple[float, float]:
        """Mean and standard deviation of what the outer folds gained; of one fold, that is 0."""
        gains = [fold.gain for fold in self.nested]
        return statistics.mean(gains), statistics.stdev(gains) if len(gains) > 1 else 0.0


def run(
    name: str, task: Task, contract: Contract, at: Paths, workers: int, nested: bool
) -> Outcome:
    """Goes on where the same search was stopped. Raises ParamsError where there is none to make, and
    MissingInput where the prepared rows are of another window or contract."""
    _check(name, task, contract)
    prepared = load_prepared(at, name)
    _refuse_stale(name, task, contract, at, prepared)
    time, label = _times_and_labels(task, at)
    folds = tuning.folds(time, task.tune.folds)
    outer = tuning.outer(time, task.tune.outer_folds, task.tune.folds) if nested else ()
    inner = [tuning.folds(time[: fold.judged.start], task.tune.folds) for fold in outer]
    for fold in (*folds, *outer, *itertools.chain(*inner)):
        _two_labels(name, label, fold)
    study = study_name(name, task, at)
    opened = partial(Study, storage_url(at), tune=task.tune, seed=task.train.seed)

    main = opened(study)
    settings = {"tune": task.tune.model_dump(mode="json"), "train": task.train.model_dump()}
    title = f"tune {prepared.last} {task.train.family}"
    recorded = TuneRun(at, name, title, settings, here(at.root), main.noted("run"))
    main.note("run", recorded.id)
    status = "KILLED"
    try:
        with closing(Crew(workers, bench, name, task, at)) as crew:
            earned = []
            for number, (fold, before) in enumerate(zip(outer, inner, strict=True), 1):
                of_fold = opened(f"{study}-outer{number}.{len(outer)}")
                search(task, crew, recorded, of_fold, before, f"outer {number} ")
                earned.append(_earned(crew, of_fold, fold))
            search(task, crew, recorded, main, folds)
        tried = main.tried()
        outcome = Outcome(
            study=study,
            rows=len(time),
            trials=len(tried),
            stopped=sum(t.score is None for t in tried),
            present=_present(main),
            best=_best(tried),
            nested=tuple(earned),
        )
        recorded.measured(_measured(outcome))
        status = "FINISHED"
        return outcome
    except PipelineError:
        status = "FAILED"
        raise
    finally:
        quietly(recorded.end, status)


def _times_and_labels(task: Task, at: Paths) -> tuple[np.ndarray, np.ndarray]:
    """(N,) each, and nothing else: the rows are the workers' to hold, and pictures are large."""
    rows = rows_of(task, at)
    return rows.time, rows.label


def _check(name: str, task: Task, contract: Contract) -> None:
    """Of each family before the first trial, or it would be refused in the middle of a search."""
    kind = KINDS[task.kind]
    kind.check(task, contract)
    tuning.check(name, task)
    for family in tuning.families(task):
        train = tuning.applied(task.train, {"family": family})
        try:
            kind.check(task.model_copy(update={"train": train}), contract)
        except ParamsError as error:
            raise ParamsError(f"tasks.{name}.tune.space has family {family}: {error}") from None


def _refuse_stale(name: str, task: Task, contract: Contract, at: Paths, prepared: Prepared) -> None:
    """What is best for rows that no training will read any more helps nobody."""
    if prepared.last != task.window.last:
        of = f"a window up to {prepared.last}, and params.yaml says {task.window.last}"
    elif prepared.contract != contract.digest:
        of = f"an earlier contracts/{name}.yaml"
    else:
        return
    raise MissingInput(
        f"{at.prepared / 'prepared.json'} is of {of}. Prepare these rows with: "
        f"dvc repro prepare@{name}"
    )


def study_name(name: str, task: Task, at: Paths) -> str:
    """The same for the same settings, space and rows; trials and workers may change as it goes on."""
    asked = {
        "tune": task.tune.model_dump(mode="json", exclude={"trials", "outer_folds"}),
        "train": task.train.model_dump(mode="json", exclude={"threads"}),
        "each row": "once",  # as `search.rows_of` has them: a search of before judged otherwise
        "rows": [store.md5(at.prepared / file) for file in ("train.npz", "encoder.json")],
    }
    return f"{name}-{store.digest_of(asked)[:12]}"


def _earned(crew: Crew, study: Study, fold: Fold) -> Earned:
    """Both settings are fitted and stopped on the rows before the fold, then judged on its rows."""
    present, best = _present(study), _best(study.tried())
    noted = f"earned by {best.index}"
    scores = study.noted(noted)
    if scores is None:
        chosen = [present] if best is present else [present, best]
        scores = fit_all(crew, [Job(t.values, (fold,), reports=False) for t in chosen])
        study.note(noted, scores)
    rows = fold.judged.stop - fold.judged.start
    return Earned(rows=rows, values=best.values, present=scores[0], tuned=scores[-1])


def _present(study: Study) -> Tried:
    """Raises ParamsError where no training with it can be judged: there is nothing to compare with."""
    present = next((t for t in study.tried() if t.index == PRESENT), None)
    if present is None:
        number, process = study.open_present()
        raise PipelineError(
            f"another command ({process}) has the trial of the present settings, and has not ended it. "
            "When it has, the same command goes on from here. If it is gone, end that trial with: "
            f'optuna tell --storage "${VARIABLE}" --study-name {study.name} --trial-number {number} '
            "--state fail"
        )
    if present.score is None:
        raise ParamsError(
            "params.yaml: a training with the present settings broke down: its loss is not finite. "
            "See where with: dvc repro; then mend train with: edit params.yaml"
        )
    return present


def _best(tried: list[Tried]) -> Tried:
    """Of equal ones the oldest, so that the present settings stand until something is better."""
    judged = [t for t in tried if t.score is not None]
    return max(judged, key=lambda t: (float(t.score or 0), -t.index))


def _measured(outcome: Outcome) -> dict[str, float]:
    present, best = outcome.present.score, outcome.best.score
    found = {"present_auc": float(present or 0), "best_auc": float(best or 0)}
    if outcome.nested:
        mean, spread = outcome.earned
        found |= {"nested_gain": mean, "nested_gain_spread": spread}
    return found


def _two_labels(name: str, label: np.ndarray, fold: Fold) -> None:
    for part in (fold.train, fold.validation, fold.judged):
        if len(np.unique(label[part])) < 2:
            raise ParamsError(
                f"params.yaml: tasks.{name}.tune cuts train rows {part.start} to {part.stop} into a "
                "part of a fold, and they have one label only. Take fewer folds, or a longer "
                "window, with: edit params.yaml"
            )


def write(name: str, task: Task, at: Paths, best: Values) -> dict[str, str]:
    """The best settings into params.yaml; returns what changed, in words."""
    if params.task(at.params, name).train != task.train:
        raise ParamsError(
            f"{at.params.name}: tasks.{name}.train was changed while it was tuned, so nothing was "
            f"written. See what is better than it now with: perennial tune {name}"
        )
    today = tuning.present(task.train, task.tune.space)
    changes = {key: value for key, value in best.items() if value != today[key]}
    text = at.params.read_bytes().decode()  # its line ends stay as they are
    keys = {("tasks", name, "train", *key.split(".")): value for key, value in changes.items()}
    changed = params_text.put(text, keys)
    with store.atomic(at.params) as temporary:
        temporary.write_bytes(changed.encode())
    return {key: f"{today[key]} -> {value}" for key, value in changes.items()}
