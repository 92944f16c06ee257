"""Stand-ins that are quick: a registry in memory, and real artifacts of a few numbers."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from pipelines import artifact, contract
from pipelines.adapters.registry import CHALLENGER, CHAMPION, PREVIOUS, Verify
from pipelines.artifact import About, Artifact
from pipelines.contract import Contract
from pipelines.errors import ArtifactError, RegistryError, UnknownId
from pipelines.graph import open_graph, raw_inputs
from pipelines.records import DataHash


class MemoryRegistry:
    """The methods of adapters/registry.Registry, over a folder and two dicts."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.moved: dict[str, str] = {}
        self.tagged: dict[str, dict[str, str]] = {}
        self.placed: str | None = None
        self.made = dt.datetime(2024, 1, 1)

    def register(self, made: Artifact, tags: Mapping[str, str] | None = None) -> str:
        same = [v for v, known in self.tagged.items() if known["artifact"] == made.digest]
        version = same[0] if same else str(len(self.tagged) + 1)
        if not same:
            shutil.copytree(made.folder, self.home / version)
            self.tagged[version] = {**(tags or {}), "artifact": made.digest}
        if version not in (self.moved.get(CHAMPION), self.moved.get(CHALLENGER)):
            self.moved[CHALLENGER] = version
        return version

    def aliases(self) -> dict[str, str]:
        return dict(self.moved)

    def alias(self, name: str) -> str | None:
        return self.moved.get(name)

    def versions(self) -> tuple[str, ...]:
        return tuple(self.tagged)

    def tags(self, version: str) -> dict[str, str]:
        if version not in self.tagged:
            raise UnknownId(f"no version {version!r}")
        return dict(self.tagged[version])

    def set_tags(self, version: str, tags: Mapping[str, str]) -> None:
        self.tagged[version].update(tags)

    def made_at(self, version: str) -> dt.datetime:
        return self.made

    def run_of(self, version: str) -> str:
        return f"run-{version}"

    def fetch(self, version: str) -> Path:
        expected = self.tags(version)["artifact"]
        found = artifact.load(self.home / version).digest
        if found != expected:
            raise ArtifactError(f"version {version} is {found}, registered as {expected}")
        return self.home / version

    def promote(self, version: str, expect: str | None, verify: Verify) -> bool:
        verify(version)
        now = self.moved.get(CHAMPION)
        if now == version:
            if self.moved.get(CHALLENGER) == version:
                del self.moved[CHALLENGER]
            if self.placed == self.moved.get(PREVIOUS):
                self.placed = version
            return False
        if now != expect:
            raise RegistryError(f"champion is {now}, not {expect}: it was promoted meanwhile")
        if expect is not None:
            self.moved[PREVIOUS] = expect
        self.moved[CHAMPION] = self.placed = version
        if self.moved.get(CHALLENGER) == version:
            del self.moved[CHALLENGER]
        return True

    def before(self) -> str | None:
        by_hand = self.placed not in (None, self.moved.get(CHAMPION))
        return self.placed if by_hand else self.moved.get(PREVIOUS)

    def rollback(self, verify: Verify) -> tuple[str, str | None]:
        to, left = self.before(), self.moved.get(CHAMPION)
        if to is None:
            raise RegistryError("no previous champion")
        if to == left:
            return to, None
        verify(to)
        self.moved[PREVIOUS] = self.moved[CHAMPION] = self.placed = to
        return to, left


# Pumps: will one fail? Two readings tell, each of them a part; a third tells too much. --------

PUMPS = contract.parse(
    """
task: pumps
time: moment
key: [pump, moment]
label: failed
columns:
  moment: {type: timestamp}
  pump: {type: integer, feature: false}
  site: {type: category}
  heat: {type: number}
  noise: {type: number}
  repair_cost: {type: number}
  failed: {type: integer, min: 0, max: 1}
"""
)
TRAINED_UNTIL = int(pd.Timestamp("2024-03-01").timestamp())


def pumps(rows: int = 1500, start: str = "2024-03-02", seed: int = 0) -> pd.DataFrame:
    """Labelled readings, one every three minutes."""
    random = np.random.default_rng(seed)
    heat, noise = random.normal(size=(2, rows))
    failed = random.random(rows) < 1 / (1 + np.exp(1 - heat - 0.8 * noise))
    return pd.DataFrame(
        {
            "moment": pd.date_range(start, periods=rows, freq="3min").astype("datetime64[s]"),
            "pump": np.arange(rows),
            "site": random.choice(["north", "south", "west"], rows, p=[0.45, 0.35, 0.2]),
            "heat": heat,
            "noise": noise,
            "repair_cost": failed + random.normal(0, 0.05, rows),
            "failed": failed.astype("int64"),
        }
    )


def pump_graph(
    weights: Mapping[str, float],
    bias: float = -1.0,
    after: Sequence[str] = ("Sigmoid",),
    sign_at: Mapping[str, float] | None = None,
) -> bytes:
    """probability = after(sign of the site * (weighted numbers + bias)).

    after: ONNX operators, one by one; sign_at: site -> factor of the sum, 1 where it is not named.
    """
    numbers = PUMPS.numbers
    signs = {site: float(sign) for site, sign in (sign_at or {"": 1}).items()}
    nodes = [helper.make_node("Unsqueeze", [n, "axis"], [f"{n}/column"]) for n in numbers]
    nodes += [
        helper.make_node("Concat", [f"{n}/column" for n in numbers], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "weights"], ["summed"]),
        helper.make_node("Add", ["summed", "bias"], ["biased"]),
        helper.make_node(
            "LabelEncoder", ["site"], ["sign"], domain="ai.onnx.ml",
            keys_strings=list(signs), values_floats=list(signs.values()), default_float=1.0,
        ),
        helper.make_node("Mul", ["biased", "sign"], ["step0"]),
    ]  # fmt: skip
    steps = [f"step{i}" for i in range(len(after))] + ["probability"]
    for operator, given, made in zip(after, steps[:-1], steps[1:], strict=True):
        nodes.append(helper.make_node(operator, [given], [made]))
    constants = {
        "axis": np.array([1], np.int64),
        "weights": np.array([weights.get(n, 0.0) for n in numbers], np.float32),
        "bias": np.array(bias, np.float32),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "pumps",
        [value(n, TensorProto.FLOAT, ["rows"]) for n in numbers]
        + [value("site", TensorProto.STRING, ["rows"])],
        [value("probability", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


WORSE = pump_graph({"heat": 1.0})
BETTER = pump_graph({"heat": 1.0, "noise": 0.8})


def pump_model(
    folder: Path, graph: bytes = BETTER, described: Contract = PUMPS, **about: Any
) -> Artifact:
    """A real artifact of that graph. Its examples are rows it answers with a probability."""
    rows = pumps(40, "2024-01-01", seed=9)
    session = open_graph(graph)
    feeds = raw_inputs(rows, PUMPS, [i.name for i in session.get_inputs()])
    answers = session.run(["probability"], feeds)[0]
    examples = rows.assign(expected_probability=answers)[np.isfinite(answers)]
    folder.mkdir(parents=True)
    reference = {name: folder.parent / name for name in ("reference.json", "reference.parquet")}
    reference["reference.json"].write_text("{}")
    rows.to_parquet(reference["reference.parquet"])
    hours = pd.Series(np.repeat(0.3, 24), index=[str(h) for h in range(24)])
    facts: dict[str, Any] = {
        "task": "pumps",
        "kind": "tabular",
        "family": "logistic",
        "seed": 7,
        "threshold": 0.5,
        "trained_until": TRAINED_UNTIL,
        "window": {"first": "2024-01", "last": "2024-02"},
        "data": (DataHash(period="2024-02", md5="0" * 32, rows=1000, validation="1" * 32),),
        "params": {},
        "contract": described.digest,
        "baseline_rate": 0.3,
        "baseline": hours.to_dict(),
        "rows": {"train": 800, "validation": 100, "test": 100},
        "metrics": {"validation_auc": 0.78},
    }
    artifact.write(folder, graph, described, About(**facts | about), reference, examples)
    return artifact.load(folder)
