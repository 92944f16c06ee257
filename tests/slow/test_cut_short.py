"""A tick cut short before any of its lasting steps: pytest -m slow tests/slow/test_cut_short.py

What a kill leaves on the disk is taken, before each step, from one whole run; each of these is then
finished by the same command. Complete where the random kills of test_never_lost.py may miss.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slow.test_loop import WEEKS, turn
from tests.slow.test_never_lost import hashes, project, said

pytestmark = [pytest.mark.slow, pytest.mark.long]
TRAINING = "candidates"
"""Between whose files test_never_lost.py kills: each of its steps is done again, or not at all."""
PRELOADED = ["pipelines.loop", "pipelines.adapters.onnx", "mlflow", "sklearn.ensemble"]


def test_a_tick_cut_short_before_any_step_is_finished_by_the_same_command(tmp_path: Path):
    shop = project(tmp_path / "shop")
    turn(shop, WEEKS[1])
    for week in WEEKS:
        if week == WEEKS[1]:
            in_a_process(tick, shop, week)
            continue
        left = tmp_path / "left" / week
        in_a_process(tick_and_keep, shop, week, left)
        whole = tmp_path / "whole" / week
        shutil.copytree(shop, whole)
        expected, told = hashes(whole), said(whole)
        assert any("promote" in cut.name for cut in left.iterdir()), "nothing is proven"
        for cut in sorted(left.iterdir()):
            shutil.rmtree(shop)  # MLflow's addresses are absolute: it goes on at the same place
            cut.rename(shop)
            in_a_process(tick, shop, week)
            assert hashes(shop) == expected, f"cut short before {cut.name}"
            assert said(shop) == told, f"cut short before {cut.name}"


def in_a_process(work: Callable[..., None], *words: object) -> None:
    """One that holds no open database, and is quick to start as a command is not."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=work, args=words)
    process.start()
    process.join(timeout=120)
    assert process.exitcode == 0, words


def tick(folder: Path, week: str) -> None:
    from pipelines import loop
    from pipelines.project import open_project

    os.chdir(folder)
    loop.tick(open_project("orders"), week, pages=False)


def tick_and_keep(folder: Path, week: str, left: Path) -> None:
    """Before each step that lasts, from the first line on the ledger on, `left` gets the folder."""
    from pipelines import store
    from pipelines.adapters.registry import Registry

    left.mkdir(parents=True)
    steps: list[str] = []

    def kept(step: str, real: Callable) -> Callable:
        def wrapped(*args: object, **options: object) -> object:
            begun = steps or step == "append_line"
            if begun and not (step == "replace" and TRAINING in Path(args[1]).parts):
                steps.append(step)
                shutil.copytree(folder, left / f"{len(steps):02d}-{step}")
            return real(*args, **options)

        return wrapped

    os.replace = kept("replace", os.replace)
    store.append_line = kept("append_line", store.append_line)
    for step in ("register", "promote", "set_tags"):
        setattr(Registry, step, kept(step, getattr(Registry, step)))
    tick(folder, week)
