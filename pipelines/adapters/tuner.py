"""Optuna: what was tried, what to try next, and what to stop early. Kept in SQLite or PostgreSQL.

One process at a time keeps a study on one machine: it asks, others work. So a study needs no locks
of its own and no heartbeat; what a killed process left open is failed when the next one opens it.
Commands on several machines may share a study in PostgreSQL; together they may try as many trials
too many as they have workers.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import socket
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines import tuning
from pipelines.adapters.tune_halving import halving
from pipelines.adapters.tune_store import reaching
from pipelines.errors import PipelineError
from pipelines.lock import alive
from pipelines.records import Record
from pipelines.tune_params import Dimension, Tune, fields, whole
from pipelines.tuning import Values

if TYPE_CHECKING:
    import optuna

PRESENT = 0
"""Index of the trial of the settings that params.yaml has today."""
UNOWNED = dt.timedelta(minutes=1)
"""A trial that is open and whose process is not noted yet is taken for left behind after this."""


class Tried(Record):
    """One trial that counts. scores: of the folds, or epochs, that it was judged on."""

    index: int
    values: Values
    scores: tuple[float, ...]
    score: float | None
    """None: it was stopped early, or broke down."""


@dataclass(frozen=True)
class Trial:
    """One open trial."""

    index: int
    values: Values
    number: int


class Study:
    """One search. name: the same for the same settings, space and rows, so that it goes on."""

    def __init__(self, url: str, name: str, tune: Tune, seed: int) -> None:
        import optuna
        from optuna.storages import RDBStorage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._url, self._tune, self._seed = url, tune, seed
        pruner = halving() if tune.pruner == "successive_halving" else optuna.pruners.NopPruner()
        # Another process writes for milliseconds; the default, five seconds, is short of a busy disk.
        waits = {"timeout": 60} if url.startswith("sqlite") else {}
        with reaching(url):
            database = RDBStorage(url, engine_kwargs={"connect_args": waits, "pool_pre_ping": True})
            self._study = optuna.create_study(
                storage=database, study_name=name, direction="maximize", pruner=pruner,
                load_if_exists=True,
            )  # fmt: skip
        self._distributions = {k: _distribution(k, d) for k, d in tune.space.items()}
        self._open: dict[int, optuna.Trial] = {}

    def bury(self) -> list[str]:
        """Fail what a killed process of this machine left open; returns the runs they had."""
        from optuna.trial import TrialState

        runs = []
        with reaching(self._url):
            for left in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if left.number not in self._open and _left_behind(left, self._url):
                    self._study.tell(left.number, state=TrialState.FAIL)
                    runs.append(str(left.user_attrs.get("run", "")))
        return [run for run in runs if run]

    def left(self, trials: int) -> int:
        """How many more to ask for."""
        missing = trials - len(self.tried()) - len(self._open)
        present = self._free_index() == PRESENT
        if self._tune.sampler == "grid":
            missing = min(missing, len(self._unasked()) + present)
        # Whatever else was tried: without them there is nothing to compare with.
        return max(missing, int(present))

    def ask(self, values_today: Values) -> Trial:
        """The settings of today first, then what the sampler chooses.

        A sampler is made anew for each trial from its index: a search that was killed and goes on
        tries what it would have tried, and a failed trial's settings are tried again.
        """
        import optuna

        index = self._free_index()
        grid = self._tune.sampler == "grid"
        if index == PRESENT:
            fixed: Values | None = values_today
        else:
            fixed = self._unasked()[0] if grid else None
        with reaching(self._url), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = self._sampler(index, fixed)
            known = fixed is None or tuning.contains(self._tune.space, fixed)
            asked = self._study.ask(self._distributions if known else None)
            self._open[asked.number] = asked
            asked.set_user_attr("process", f"{socket.gethostname()}:{os.getpid()}")
            asked.set_user_attr("index", index)
            values = fixed or tuning.written(self._tune.space, asked.params)
            asked.set_user_attr("values", values)
        return Trial(index, values, asked.number)

    def note_run(self, trial: Trial, run: str) -> None:
        with reaching(self._url):
            self._open[trial.number].set_user_attr("run", run)

    def step(self, trial: Trial, step: int, value: float) -> bool:
        """step from 1. False: the trial is to stop here. The settings of today go on to their end."""
        with reaching(self._url):
            self._open[trial.number].report(value, step)
            worse = self._open[trial.number].should_prune()
        return not worse or trial.index == PRESENT

    def tell(self, trial: Trial, score: float | None, scores: tuple[float, ...]) -> None:
        """score: None where it was stopped early or broke down; it counts as tried."""
        from optuna.trial import TrialState

        with reaching(self._url):
            asked = self._open.pop(trial.number)
            asked.set_user_attr("scores", scores)
            state = TrialState.PRUNED if score is None else TrialState.COMPLETE
            self._study.tell(asked, score, state=state)

    def fail(self, trial: Trial) -> None:
        """It did not come to an end, and does not count."""
        from optuna.trial import TrialState

        with reaching(self._url):
            self._study.tell(self._open.pop(trial.number), state=TrialState.FAIL)

    def fail_open(self) -> None:
        from optuna.trial import TrialState

        with reaching(self._url):
            while self._open:
                self._study.tell(self._open.popitem()[1], state=TrialState.FAIL)

    def tried(self) -> list[Tried]:
        """Trials that count, by index."""
        from optuna.trial import TrialState

        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        with reaching(self._url):
            found = self._study.get_trials(deepcopy=False, states=ended)
        tried = [
            Tried(
                index=t.user_attrs["index"],
                values=t.user_attrs["values"],
                scores=tuple(t.user_attrs["scores"]),
                score=t.value if t.state == TrialState.COMPLETE else None,
            )
            for t in found
        ]
        return sorted(tried, key=lambda t: t.index)

    def open_present(self) -> tuple[int, str]:
        """Optuna's number of the trial of the present settings that is open elsewhere, and of which
        process it is. Raises PipelineError where it has ended meanwhile."""
        from optuna.trial import TrialState

        with reaching(self._url):
            running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        found = next((t for t in running if t.user_attrs.get("index") == PRESENT), None)
        if found is None:
            raise PipelineError(
                "another command has just ended a trial: run the same command again"
            )
        return found.number, str(found.user_attrs.get("process", "of another machine"))

    @property
    def name(self) -> str:
        return str(self._study.study_name)

    def note(self, key: str, value: Any) -> None:
        with reaching(self._url):
            self._study.set_user_attr(key, value)

    def noted(self, key: str) -> Any:
        with reaching(self._url):
            return self._study.user_attrs.get(key)

    def _free_index(self) -> int:
        from optuna.trial import TrialState

        with reaching(self._url):
            all_trials = self._study.get_trials(deepcopy=False)
        taken = {t.user_attrs.get("index") for t in all_trials if t.state != TrialState.FAIL}
        return next(i for i in range(len(all_trials) + 1) if i not in taken)

    def _unasked(self) -> list[Values]:
        """Combinations of the grid that no trial has, in an order of the seed's."""
        every = tuning.grid(self._tune.space)
        random.Random(self._seed).shuffle(every)
        had = [t.values for t in self.tried()]
        had += [t.user_attrs["values"] for t in self._open.values() if "values" in t.user_attrs]
        return [values for values in every if values not in had]

    def _sampler(self, index: int, fixed: Values | None) -> optuna.samplers.BaseSampler:
        from optuna.samplers import PartialFixedSampler, RandomSampler, TPESampler

        seed = (self._seed * 1_000_003 + index) % 2**32
        base: optuna.samplers.BaseSampler = RandomSampler(seed=seed)
        if fixed is not None:
            return PartialFixedSampler(fixed, base)
        if self._tune.sampler == "tpe":
            # Of a short search, a third at random; Optuna's own ten would leave little to learn from.
            startup = min(10, max(3, self._tune.trials // 3))
            base = TPESampler(seed=seed, n_startup_trials=startup)
        return base


def _distribution(key: str, dimension: Dimension) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if dimension.choices is not None:
        return distributions.CategoricalDistribution(dimension.choices)
    low, high = dimension.bounds
    step = dimension.step
    if step is not None:
        high = low + step * int((high - low) / step + 1e-6)
    if whole(dict(fields())[key]):
        return distributions.IntDistribution(
            int(low), int(high), log=dimension.log, step=int(step or 1)
        )
    return distributions.FloatDistribution(low, high, log=dimension.log, step=step)


def _left_behind(trial: optuna.trial.FrozenTrial, url: str) -> bool:
    if url.startswith("sqlite"):  # nobody else is at it: we hold the lock
        return True
    host, _, pid = str(trial.user_attrs.get("process", "")).rpartition(":")
    if not host:
        began = trial.datetime_start
        return began is not None and dt.datetime.now() - began > UNOWNED
    return host == socket.gethostname() and (int(pid) == os.getpid() or not alive(int(pid)))
