"""One step of an objective: the network with everything that is learned beside it, and AdamW."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines import train_params
from pipelines.models import distributed
from pipelines.models.averaging import Average
from pipelines.models.devices import Plan
from pipelines.models.objective import Objective
from pipelines.models.place import Batch
from pipelines.models.schedule import Schedule, schedule


class Learner(nn.Module):
    """The loss as a module, so that all that learns is distributed as one."""

    def __init__(self, objective: Objective, groups: list[dict]) -> None:
        super().__init__()
        self.module = objective.module
        known = {id(p) for p in self.module.parameters()}
        learned = [p for group in groups for p in group["params"]]
        self.beside = nn.ParameterList(p for p in learned if id(p) not in known)
        self.objective = objective
        self.running: list[nn.Module] = [self.module]
        """The network as it is called, compiled or not; in a list, or it would be kept twice."""

    def forward(self, batch: Batch, random: torch.Generator) -> Tensor:
        return self.objective.loss(self.running[0], batch, random)


class Stepper:
    """Forward, backward, step: and the state that goes from one to the next."""

    def __init__(
        self,
        objective: Objective,
        settings: train_params.Loop,
        plan: Plan,
        batches: int,
        random: torch.Generator,
    ) -> None:
        self.settings, self.plan, self.random = settings, plan, random
        groups = [g for g in objective.groups(settings.weight_decay) if g["params"]]
        self.learner = Learner(objective, groups).to(plan.device)
        if any(p.ndim == 4 for p in objective.module.parameters()):
            self.learner.to(memory_format=torch.channels_last)
        self.called: nn.Module = self.learner
        self.learning: list[bool] = []
        self.clipped = list(objective.module.parameters())
        fused = plan.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)
        self.schedule: Schedule = schedule(self.optimizer, settings, batches)
        self.scaler = torch.amp.GradScaler(plan.device.type, enabled=plan.scaled)
        decay = settings.average
        self.average = Average(objective.module, decay) if decay else None

    def distribute(self) -> None:
        """Before an epoch: processes exchange gradients of what learns in it."""
        learning = [p.requires_grad for p in self.learner.parameters()]
        if dist.is_initialized() and learning != self.learning:
            self.called = nn.parallel.DistributedDataParallel(self.learner)
        self.learning = learning

    def loss(self, batch: Batch) -> Tensor:
        with self.plan.autocast:
            loss: Tensor = self.called(batch, self.random)
        return loss

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def parts(self, batch: Batch) -> list[tuple[Batch, float]]:
        """The batch in `accumulate` parts of two rows or more, as BatchNorm needs, and the share of its
        rows that each has."""
        rows = len(batch[0])
        if self.settings.accumulate == 1:
            return [(batch, 1.0)]
        pieces = max(1, min(self.settings.accumulate, rows // 2))
        split = zip(*(part.tensor_split(pieces) for part in batch), strict=True)
        return [(piece, len(piece[0]) / rows) for piece in split]

    def exchange(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once a step, in the backward pass of its last part."""
        if last or not isinstance(self.called, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        unsent: contextlib.AbstractContextManager[None] = self.called.no_sync()
        return unsent

    def step(self) -> Tensor | None:
        """Length of the gradient before it was clipped; None where the scaler looks at it: it
        leaves out a step whose scaled gradient is not finite, and scales less."""
        self.scaler.unscale_(self.optimizer)
        if self.settings.clip:
            norm = nn.utils.clip_grad_norm_(self.clipped, self.settings.clip)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in self.clipped if p.grad is not None])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.average is not None:
            self.average.update()
        return None if self.plan.scaled else norm

    @property
    def scale(self) -> float:
        """What fp16's loss is multiplied by; 1 where none is. Each step whose gradient is not finite is
        left out and halves it, so that far below it nothing is learned."""
        return float(self.scaler.get_scale())

    def share_moments(self) -> None:
        """Before judging: rank 0's of each BatchNorm, and of their running mean, on every process.

        Each takes them from its own rows, and processes that answer shares of validation with
        moments of their own judge weights that nobody keeps.
        """
        if not dist.is_initialized():
            return
        held = [buffer for buffer in self.learner.module.buffers() if buffer.is_floating_point()]
        held += self.average.mean if self.average is not None else []
        for value in held:
            value.copy_(distributed.from_first(value.contiguous()))

    def judging(self) -> contextlib.AbstractContextManager[None]:
        """In the block the network has the weights that are judged and kept."""
        return self.average.worn() if self.average is not None else contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """All that a step leaves for the next, but the random numbers."""
        average = self.average
        return {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": {"steps": average.steps, "mean": average.mean} if average else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.steps = state["average"]["steps"]
            for held, kept in zip(self.average.mean, state["average"]["mean"], strict=True):
                held.copy_(kept)
