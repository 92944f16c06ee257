"""Killed at any step, a training goes on to the same weights: `pytest tests/test_checkpoint.py`."""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import metrics, store, train_params
from pipelines.models import checkpoint
from pipelines.models.pictures import fit_pictures
from pipelines.records import Pictures
from tests.training_world import CPU, digest, pictures, trained

EVERY = CPU.model_copy(update={"checkpoint": 3})
SETTINGS: dict[str, dict[str, Any]] = {
    "table": {"average": 0.9, "schedule": "plateau", "accumulate": 2},
    "pictures": {"schedule": "one_cycle", "label_smoothing": 0.1},
}
STEPS = {"table": 21, "pictures": 18}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def lives(world: str, folder: Path, deaths: list[tuple[str, int]]) -> tuple[list[int], str]:
    """Exit statuses of the processes that were killed and of the last, and what that came to."""
    asked = {"world": world, "folder": str(folder), "deaths": deaths, "settings": SETTINGS[world]}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.training_world", json.dumps(asked)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [int(line) for line in ran.stdout.split()], (folder / "digest").read_text()


@pytest.mark.parametrize("world", SETTINGS)
def test_killed_at_random_steps_the_weights_are_the_same_to_the_bit(
    world: str, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    drawn = random.Random(seed)
    losses = STEPS[world] * (2 if world == "table" else 1)
    deaths = [("loss", drawn.randint(1, losses)) for _ in range(3)]
    deaths += [("loss", 2), ("fsync", drawn.randint(1, 3)), ("loss", 5)]
    expected = digest(trained(world, **SETTINGS[world]))
    statuses, found = lives(world, tmp_path, deaths)
    assert statuses[-1] == 0
    assert -signal.SIGKILL in statuses, f"nothing was killed, of deaths {deaths}"
    assert found == expected, f"seed {seed}: {deaths}"
    assert [file.name for file in tmp_path.iterdir()] == ["digest"], "a checkpoint outlived its use"


def stopped(world: str, folder: Path, at: int, **more: Any) -> None:
    """A training that ends at its `at`-th loss."""

    def change(objective: Any) -> None:
        real, calls = objective.loss, [0]

        def loss(*given: Any) -> torch.Tensor:
            calls[0] += 1
            if calls[0] == at:
                raise KeyboardInterrupt
            return real(*given)

        objective.loss = loss

    with pytest.raises(KeyboardInterrupt):
        trained(world, folder=folder, machine=EVERY, change=change, **more)


def losses_taken(world: str, folder: Path, **more: Any) -> tuple[int, str]:
    calls = [0]

    def change(objective: Any) -> None:
        real = objective.loss

        def loss(*given: Any) -> torch.Tensor:
            calls[0] += 1
            return real(*given)

        objective.loss = loss

    found = trained(world, folder=folder, change=change, **{"machine": EVERY} | more)
    return calls[0], digest(found)


def test_goes_on_from_the_last_checkpoint_and_tells_of_the_epochs_before(tmp_path: Path) -> None:
    whole: list[int] = []
    expected = digest(trained("table", on_epoch=lambda epoch, _: whole.append(epoch)))
    stopped("table", tmp_path, at=18)
    told: list[int] = []
    taken, found = losses_taken("table", tmp_path, on_epoch=lambda epoch, _: told.append(epoch))
    assert taken == 21 - 15
    assert found == expected
    assert told == whole == [0, 1, 2]


@pytest.mark.parametrize("world", ["table", "pictures"])
@pytest.mark.parametrize("early", [False, True])
def test_the_end_of_a_training_is_there_until_its_model_is_kept(
    tmp_path: Path, world: str, early: bool
) -> None:
    """Export, measures and the registry come after it, and a server that is away must cost no training."""

    def falling(objective: Any) -> None:
        real, calls = objective.judge, [0]

        def judge(*given: Any) -> dict[str, float]:
            calls[0] += 1
            return {name: value / 9 ** calls[0] for name, value in real(*given).items()}

        if early:
            objective.judge = judge
            objective.worse = lambda found, top: True

    ended = trained(world, folder=tmp_path, machine=EVERY, change=falling, patience=1, forget=False)
    expected, epochs = digest(ended), len(ended.history)
    assert epochs == (2 if early else 3)
    del ended  # as its process is gone
    told: list[int] = []
    taken, found = losses_taken(world, tmp_path, patience=1, on_epoch=lambda e, _: told.append(e))
    assert (taken, found) == (0, expected)
    assert told == list(range(epochs))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("what", "changed"),
    [("settings", {"learning_rate": 0.02}), ("settings", {"seed": 8}), ("data", {})],
)
def test_another_trainings_checkpoint_is_named_and_left(
    what: str,
    changed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped("table", tmp_path, at=18)
    (left,) = tmp_path.glob("*.pt")
    held = left.read_bytes()
    if what == "data":
        monkeypatch.setattr("tests.training_world.HELD_ROWS", 190)
    with caplog.at_level(logging.WARNING):
        taken, _ = losses_taken("table", tmp_path, **changed)
    assert taken == 21
    assert left.read_bytes() == held
    assert str(left) in caplog.text
    assert what in caplog.text


@pytest.mark.parametrize(
    "changed",
    [
        {"augment": train_params.Augment(flip=True)},
        {"backbone": train_params.Backbone(unfreeze=1)},
        {"backbone": train_params.Backbone(layer_decay=0.5)},
    ],
    ids=str,
)
def test_pictures_changed_or_unfrozen_otherwise_are_another_training(
    changed: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels, label = (tensor.numpy() for tensor in pictures(64))
    rows = Pictures(pixels, label, np.zeros(64, dtype=np.int64))
    asked = train_params.Train(
        seed=7, device="cpu", family="cnn", checkpoint=1,
        cnn=train_params.Cnn(channels=(4,), epochs=2, batch=32),
    )  # fmt: skip

    def killed(epoch: int, _: dict[str, float]) -> None:
        raise KeyboardInterrupt

    def fit(settings: train_params.Train, on_epoch: Any) -> None:
        fit_pictures(rows, rows, (0.5,), (0.3,), 3, settings, on_epoch, folder=tmp_path)

    with pytest.raises(KeyboardInterrupt):
        fit(asked, killed)
    with caplog.at_level(logging.INFO):
        fit(asked.model_copy(update=changed), lambda *_: None)
    assert "is of another settings" in caplog.text
    assert "training goes on" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        fit(asked, lambda *_: None)
    assert "training goes on from epoch 1, step 2 of 2" in caplog.text


def test_code_that_changed_is_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped("table", tmp_path, at=18)
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert losses_taken("table", tmp_path)[0] == 21


def test_the_measure_that_chooses_the_epoch_belongs_to_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped("table", tmp_path, at=18)
    changed = tmp_path / "metrics.py"
    changed.write_text(Path(metrics.__file__).read_text() + "# another\n")
    monkeypatch.setattr(metrics, "__file__", str(changed))
    assert losses_taken("table", tmp_path)[0] == 21
    assert "is of another code" in caplog.text


def test_a_compiled_training_is_another_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped("table", tmp_path, at=18)
    never = EVERY.model_copy(update={"compile": "never"})
    assert losses_taken("table", tmp_path, machine=never)[0] == 21
    assert "is of another machine" in caplog.text


def test_a_file_that_would_run_code_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"of": Hostile()}, tmp_path / "checkpoint-0.pt")
    assert losses_taken("table", tmp_path)[0] == 21
    assert "is no checkpoint and is left" in caplog.text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "held", [b"", b"PK\x03\x04", ["a list"], {"of": ["no", "names"]}, {"of": None}, {}], ids=str
)
def test_a_file_that_is_no_checkpoint_stops_nobody(
    held: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "checkpoint-0.pt"
    if isinstance(held, bytes):
        file.write_bytes(held)
    else:
        torch.save(held, file)
    assert losses_taken("table", tmp_path)[0] == 21
    assert f"{file} is no checkpoint and is left" in caplog.text
    assert file.exists()


def test_a_checkpoint_that_is_cleared_as_it_is_found_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"of": {}}, tmp_path / "checkpoint-0.pt")
    real = checkpoint._read

    def too_late(file: Any) -> Any:
        Path(file).unlink()
        return real(file)

    monkeypatch.setattr(checkpoint, "_read", too_late)
    assert losses_taken("table", tmp_path)[0] == 21
    assert caplog.text == ""


def test_none_is_written_where_none_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*_: Any) -> None:
        raise AssertionError("a checkpoint was written")

    monkeypatch.setattr(checkpoint.Checkpoint, "save", save)
    never = train_params.Machine(device="cpu", checkpoint=0)
    trained("table", folder=tmp_path, machine=never)
    with pytest.raises(AssertionError, match="was written"):
        trained("table", folder=tmp_path, machine=EVERY)


def test_a_second_process_of_the_same_training_leaves_the_first_its_unfinished_file(tmp_path: Path):
    one, other = (checkpoint.Checkpoint(tmp_path, {"rows": "the same"}) for _ in range(2))
    assert one.load(first=True) is None
    with store.atomic(one.path) as half:
        half.write_bytes(b"half")
        assert other.load(first=True) is None
        assert half.read_bytes() == b"half"
        torch.save({"of": one.of, "step": 3}, half)
    found = other.load(first=True)
    assert found is not None
    assert found["step"] == 3
    left = tmp_path / f".{one.path.name}.killed.tmp"
    left.write_bytes(b"half")
    one.clear()
    other.load(first=True)
    assert not left.exists(), "alone, it tidies up"
