"""Optuna's successive halving, of the trials that count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import optuna

HALF = 2
"""Of all trials that came as far, one in so many goes on."""


def halving() -> optuna.pruners.BasePruner:
    """Optuna's, which counts failed trials as well: what was killed is tried once more, and would
    count twice, so that a search that was killed stopped others than one that was not."""
    from optuna.pruners import SuccessiveHalvingPruner
    from optuna.trial import TrialState

    class Counting:
        """The study without them; all else of it as it is (`prune` reads the trials, optuna 4)."""

        def __init__(self, study: optuna.Study) -> None:
            self._all = study

        def __getattr__(self, name: str) -> Any:
            return getattr(self._all, name)

        def get_trials(self, deepcopy: bool = True) -> list[optuna.trial.FrozenTrial]:
            every = self._all.get_trials(deepcopy=deepcopy)
            return [trial for trial in every if trial.state != TrialState.FAIL]

    class Halving(SuccessiveHalvingPruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return super().prune(cast("optuna.Study", Counting(study)), trial)

    return Halving(min_resource=1, reduction_factor=HALF)
