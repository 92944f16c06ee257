"""The one loop: epochs of steps, each epoch judged, the best one kept."""

# W processes, S steps, B batch

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines import train_params
from pipelines.models import chance, compiling, devices, distributed, observing
from pipelines.models.checkpoint import Checkpoint, fingerprint, named
from pipelines.models.devices import Plan
from pipelines.models.learner import Stepper
from pipelines.models.objective import Objective
from pipelines.models.place import Batch, place
from pipelines.models.progress import OnStep, Teller
from pipelines.models.reached import Reached
from pipelines.models.watch import EVERY, Watch, refuse
from pipelines.models.world import world
from pipelines.settings import Settings

OnEpoch = Callable[[int, dict[str, float]], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """best: epoch and what was judged of the weights that `module` now has, on the CPU.

    forget: to be called when the model is kept; until then a training that was killed after its last
    epoch has its end to go on from.
    """

    module: nn.Module
    best: dict[str, float]
    history: list[dict[str, float]]
    forget: Callable[[], None]


class Loop:
    """One training, of this process."""

    def __init__(
        self,
        objective: Objective,
        settings: train_params.Loop,
        beside: Sequence[Settings],
        seed: int,
        machine: train_params.Machine,
        plan: Plan,
        folder: Path | None,
    ) -> None:
        self.objective, self.settings, self.machine, self.plan = objective, settings, machine, plan
        self.here, self.folder = world(), folder
        self.checkpoint: Checkpoint | None = None
        self.events: Path | None = None
        if folder is not None and (machine.checkpoint or machine.tensorboard):
            of = fingerprint(objective, settings, beside, seed, machine, plan, self.here.size)
            self.checkpoint = Checkpoint(folder, of) if machine.checkpoint else None
            # Its own, or TensorBoard draws the curves of all trainings as one.
            self.events = folder / "events" / named(of) if machine.tensorboard else None
        rows = len(objective.rows[0])
        self.batch = min(settings.batch, rows // self.here.size)
        # The odd rows of an epoch rest; each epoch others.
        self.batches = rows // (self.batch * self.here.size)
        self.random = torch.Generator(plan.device)
        self.random.manual_seed(seed + self.here.rank)
        if not self.here.first:
            torch.manual_seed(seed + self.here.rank)  # or all processes would drop the same units
        self.stepper = Stepper(objective, settings, plan, self.batches, self.random)
        self.rows = place(objective.rows, plan.device)
        self.reached = Reached()
        self.last = math.nan
        """The newest loss that was looked at; on an accelerator, some steps ago."""

    def until_best(self, on_epoch: OnEpoch, on_step: OnStep | None) -> Trained:
        """Train on, keep the epoch that `worse` lets stand, stop when it stood for `patience`."""
        resumed = self.checkpoint.load(self.here.first) if self.checkpoint else None
        if resumed is not None:
            self.load(resumed)
            log.info(
                "training goes on from epoch %d, step %d of %d",
                self.reached.epoch + 1, self.reached.batch, self.batches,
            )  # fmt: skip
        self._compile()
        written = self.folder if self.here.first else None
        trace = written / "trace.json" if written and self.machine.profile else None
        if trace and resumed is None:
            trace.unlink(missing_ok=True)  # another training's
        done = self.reached.epoch * self.batches + self.reached.batch
        total = self.batches * self.settings.epochs - done
        with (
            observing.traced(trace, total, self.plan.device.type == "cuda") as traced,
            observing.events(self.events if written else None) as show,
        ):
            told = [on_epoch, show]
            for epoch, report in enumerate(self.reached.reports):
                _tell(told, epoch, report)
            random = resumed["own"][self.here.rank] if resumed else None
            going = not self.reached.waited_out(self.settings.patience)
            while going and self.reached.epoch < self.settings.epochs:
                report = self._epoch(on_step, traced, random)
                random = None
                going = self._judge(report)
                _tell(told, self.reached.epoch - 1, self.reached.reports[-1])
        if self.checkpoint:
            self._save(self.checkpoint)
        self.objective.module.load_state_dict(self.reached.weights)
        return Trained(
            self.objective.module.cpu().eval(), self.reached.best, self.reached.history(),
            self.checkpoint.clear if self.checkpoint and self.here.first else lambda: None,
        )  # fmt: skip

    def _epoch(
        self, on_step: OnStep | None, traced: Callable[[], None], random: dict[str, Tensor] | None
    ) -> dict[str, float]:
        """Mean loss of its batches, and its speed. random: of the middle of it, to go on from."""
        reached, stepper = self.reached, self.stepper
        self.objective.begin(reached.epoch)
        stepper.distribute()
        stepper.learner.train()
        order_SB = self._order(reached, random)
        watch = Watch(reached.epoch, self.batches, EVERY if self._accelerated else 1)
        watch.total, watch.seen, watch.last = reached.total, reached.batch, self.last
        teller = Teller(
            on_step, reached.epoch, self.settings.epochs, self.batches,
            self.batch * self.here.size, reached.batch,
        )  # fmt: skip
        for batch in self.rows.batches(order_SB[reached.batch :]):
            self._step(batch, watch)
            reached.batch += 1
            traced()
            teller.after(reached.batch, watch.last)
            if self.checkpoint and self._due():
                watch.look()
                reached.total = watch.total
                self._save(self.checkpoint)
        loss = distributed.mean(watch.mean())
        self.last = watch.last
        return {"train_loss": loss, "rows_per_second": teller.rows_per_second(reached.batch)}

    @property
    def _accelerated(self) -> bool:
        return str(self.plan.device.type) != "cpu"

    def _due(self) -> bool:
        done = self.reached.epoch * self.batches + self.reached.batch
        return done % self.machine.checkpoint == 0

    def _order(self, reached: Reached, random: dict[str, Tensor] | None) -> Tensor:
        """(S, B) int64: this process's rows of every step of an epoch."""
        if random is not None and reached.order is not None:
            torch.set_rng_state(reached.order)
        reached.order = torch.get_rng_state()
        order = distributed.from_first(torch.randperm(len(self.objective.rows[0])))
        if random is not None:
            chance.restore(random, self.random)
        used = order[: self.batches * self.here.size * self.batch]
        return used.view(self.batches, self.here.size, self.batch)[:, self.here.rank]

    def _step(self, batch: Batch, watch: Watch) -> None:
        stepper = self.stepper
        parts = stepper.parts(batch)
        if len(parts) == 1:
            loss = stepper.loss(batch)
            watch.loss(loss)
            stepper.backward(loss)
        else:
            total = torch.zeros((), device=self.plan.device)
            for index, (part, share) in enumerate(parts):
                with stepper.exchange(last=index == len(parts) - 1):
                    loss = stepper.loss(part) * share
                    total += loss.detach()
                    stepper.backward(loss)
            watch.loss(total)
        watch.gradient(stepper.step())

    def _judge(self, report: dict[str, float]) -> bool:
        """Go on? Every process decides by what rank 0 has judged."""
        reached, objective = self.reached, self.objective
        if (scale := self.stepper.scale) < 1:
            refuse(
                f"epoch {reached.epoch}: the scale of fp16's loss, lowered by steps left out", scale
            )
        self.stepper.share_moments()
        with self.stepper.judging():
            with devices.tf32(self.plan, False):  # judged in the float32 that it is exported in
                judged = objective.judge(self.plan.device)
            found = distributed.values_from_first(judged)
            loss = found["validation_loss"]
            if not math.isfinite(loss):
                refuse(f"epoch {reached.epoch}: the validation loss", loss)
            self.stepper.schedule.epoch(loss)
            speed = report["rows_per_second"]
            reached.reports.append(
                {"train_loss": report["train_loss"], **found, "rows_per_second": speed}
            )
            if not reached.top or not objective.worse(found, reached.top):
                reached.best = {"epoch": float(reached.epoch), **found}
                reached.weights = copy.deepcopy(objective.module.state_dict())
        # An epoch that has no score, as with one class in validation, gives way to any that has.
        if not reached.top or not objective.score(found) <= objective.score(reached.top):
            reached.top = found
        reached.epoch, reached.batch, reached.total = reached.epoch + 1, 0, 0.0
        return not reached.waited_out(self.settings.patience)

    def _compile(self) -> None:
        """By what is computed at once: the device may have no room for all parts of a batch."""
        batch = tuple(rows[: self.batch] for rows in self.objective.rows)
        parts = self.stepper.parts(batch)
        sizes = {len(part[0]): part for part, _ in parts}
        tried = [tuple(rows.to(self.plan.device) for rows in part) for part in sizes.values()]
        memory = self.folder / "compile.json" if self.folder else None
        steps = self.batches * self.settings.epochs * len(parts)
        pays = self.here.first and compiling.choose(
            self.stepper, tried, self.machine.compile, steps, memory
        )
        # Rank 0 measures and remembers, and the others do as it does.
        told = distributed.values_from_first({"compiled": float(bool(pays))})
        if told["compiled"] and not self.here.first:
            self.stepper.learner.running[0] = torch.compile(self.objective.module)

    def _save(self, checkpoint: Checkpoint) -> None:
        own = chance.state(self.random) | {
            "total": torch.tensor(self.reached.total, dtype=torch.float64)
        }
        of_all = {name: distributed.gathered(value) for name, value in own.items()}
        if not self.here.first:
            return
        ranks = range(self.here.size)
        own_of = [{name: values[rank] for name, values in of_all.items()} for rank in ranks]
        reached = {f.name: getattr(self.reached, f.name) for f in fields(self.reached)}
        checkpoint.save({"reached": reached, "own": own_of, "stepper": self.stepper.state_dict()})

    def load(self, state: dict[str, Any]) -> None:
        self.reached = Reached(**state["reached"])
        self.reached.total = state["own"][self.here.rank]["total"].item()
        self.stepper.load_state_dict(state["stepper"])


def _tell(told: list[OnEpoch], epoch: int, report: dict[str, float]) -> None:
    for hear in told:
        hear(epoch, dict(report))
