"""What every benchmark ends in: each figure beside its aim, as text and JSON, and an exit code."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    aim: float
    better: Literal["at least", "at most"]

    @property
    def met(self) -> bool:
        return self.value >= self.aim if self.better == "at least" else self.value <= self.aim


def close(name: str, figures: list[Figure], detail: dict[str, Any]) -> None:
    """Print, write benchmarks/results/<name>.json, and leave with 1 when an aim is missed."""
    width = max(len(f.name) for f in figures)
    for figure in figures:
        mark = "met   " if figure.met else "MISSED"
        print(
            f"{mark} {figure.name:<{width}} {figure.value:>9.4f}   aim: {figure.better} {figure.aim:g}"
        )
    RESULTS.mkdir(exist_ok=True)
    told = {"figures": [asdict(f) | {"met": f.met} for f in figures], "detail": detail}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    print(f"written: {path}")
    sys.exit(0 if all(f.met for f in figures) else 1)
