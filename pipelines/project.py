"""One task opened: its name, settings, contract and files."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipelines import contract as contracts
from pipelines import params, paths, periods
from pipelines.contract import Contract
from pipelines.errors import ParamsError
from pipelines.params import Task
from pipelines.paths import Paths


@dataclass(frozen=True)
class Project:
    name: str
    task: Task
    contract: Contract
    at: Paths

    def window(self, last: str) -> tuple[str, ...]:
        """The periods that a training up to and with `last` uses, oldest first."""
        window, length = self.task.window, self.task.period
        if last < window.first:
            earliest = self.shift(window.first, self.task.label_delay)
            raise ParamsError(
                f"no label of {self.name} is known yet at {self.shift(last, self.task.label_delay)}: "
                f"params.yaml begins the window with {window.first}, and labels come "
                f"{self.task.label_delay} batch late. The earliest tick is: "
                f"perennial tick {self.name} --batch {earliest}"
            )
        return periods.between(window.first, last, length)[-window.batches :]

    def ending(self, last: str) -> Project:
        """The same task with its window moved to end at `last`, in a candidate folder of its own."""
        window = self.task.window.model_copy(update={"last": last})
        return replace(
            self,
            task=self.task.model_copy(update={"window": window}),
            at=replace(self.at, candidate=last),
        )

    def shift(self, period: str, by: int) -> str:
        return periods.shift(period, self.task.period, by)


def open_project(name: str, replay: str | None = None) -> Project:
    """Raises ParamsError or MissingInput naming the file and key that is wrong."""
    root = paths.project_root()
    task = params.task(root / paths.PARAMS, name)
    at = Paths(root, name, replay=replay)
    contract = contracts.load(at.contract)
    if contract.task != name:
        raise ParamsError(
            f"contracts/{name}.yaml says task: {contract.task}; it must say task: {name}. "
            f"Mend it with: edit contracts/{name}.yaml"
        )
    for period in (task.window.first, task.window.last):
        periods.start_and_end(period, task.period)
    return Project(name, task, contract, at)
