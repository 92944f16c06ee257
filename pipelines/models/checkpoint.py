"""What a killed training goes on from: one file, written whole, read without running code.

The file is `torch.save` of tensors and plain values, and is read with `weights_only=True`, which
builds nothing else. Its name holds a fingerprint of settings, data, first weights and code: a
checkpoint that differs in one of them has another name, is told of, and is left where it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipelines import metrics, store
from pipelines.models import distributed

if TYPE_CHECKING:
    from pipelines import train_params
    from pipelines.models.devices import Plan
    from pipelines.models.objective import Objective
    from pipelines.settings import Settings

log = logging.getLogger(__name__)

State = dict[str, Any]


def fingerprint(
    objective: Objective,
    settings: train_params.Loop,
    beside: Sequence[Settings],
    seed: int,
    machine: train_params.Machine,
    plan: Plan,
    processes: int,
) -> dict[str, str]:
    """Digests of all that the weights of the end depend on. `objective` as it was made.

    beside: what it was made with that neither the loop's settings nor its tensors tell.
    """
    read = [of.model_dump(mode="json") for of in (settings, *beside)]
    ran = [str(plan.device.type), plan.precision, plan.tf32, plan.deterministic]
    ran += [machine.compile, processes, torch.get_num_threads(), torch.__version__]
    # The epoch that is kept is chosen by a measure that stands elsewhere.
    code = [*sorted(Path(__file__).parent.glob("*.py")), Path(metrics.__file__)]
    return {
        "settings": store.digest_of([*read, seed]),
        "data": _digest((*objective.rows, *objective.validation)),
        "first weights": _digest(tuple(objective.module.state_dict().values())),
        "machine": store.digest_of(ran),
        "code": store.digest_of([file.read_text(encoding="utf-8") for file in code]),
    }


def named(of: dict[str, str]) -> str:
    """16 hex digits of the training with this fingerprint, in the names of its files."""
    return store.digest_of(of)[:16]


def _digest(tensors: tuple[Tensor, ...]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        whole = tensor.detach().cpu().contiguous().reshape(-1)
        if whole.numel():
            found.update(memoryview(whole.view(torch.uint8).numpy()))
    return found.hexdigest()


class Checkpoint:
    """One training's file. Rank 0 reads and writes it; the folder need not be shared."""

    def __init__(self, folder: Path, of: dict[str, str]) -> None:
        self.of = of
        self.path = folder / f"checkpoint-{named(of)}.pt"
        self._locked_by = self.path.with_suffix(".lock")
        self._let_go: Callable[[], object] | None = None

    def save(self, state: State) -> None:
        with store.atomic(self.path) as temporary:
            torch.save({"of": self.of, **state}, temporary)

    def load(self, first: bool) -> State | None:
        """On every process what rank 0 (first) finds; others that it finds are told of and left."""
        held = b""
        if first:
            self._tell_of_others()
            if self._alone():
                store.sweep(self.path.parent, of=self.path.name)
            held = self.path.read_bytes() if self.path.is_file() else b""
        held = distributed.bytes_from_first(held)
        return _read(io.BytesIO(held)) if held else None

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        if self._let_go is not None:
            self._locked_by.unlink(missing_ok=True)
            self._let_go()
            self._let_go = None

    def _alone(self) -> bool:
        """Or another process is at the very same training, and may be in the middle of a file."""
        if self._let_go is None:
            self._locked_by.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._locked_by, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._let_go = weakref.finalize(self, os.close, lock)
        return True

    def _tell_of_others(self) -> None:
        for other in sorted(self.path.parent.glob("checkpoint-*.pt")):
            if other == self.path:
                continue
            try:
                of = dict(_read(other)["of"])
            except FileNotFoundError:
                continue  # cleared a moment ago: its training is done
            except Exception as error:  # torch.load raises what it likes on bytes of anybody's
                log.warning("%s is no checkpoint and is left: %s", other, error)
                continue
            differs = ", ".join(name for name in self.of if self.of[name] != of.get(name))
            log.warning("%s is of another %s: not resumed from, and left", other, differs)


def _read(file: Path | io.BytesIO) -> State:
    found: State = torch.load(file, map_location="cpu", weights_only=True)
    return found
