"""This working tree against another commit, as Markdown for a pull request: `make compare BASE=main`.

Numbers by `dvc metrics diff`, curves by `dvc plots diff`. Where the base's results are in no cache
(its dvc.lock is not committed, or its data not pushed), they are made now: `dvc repro` in a worktree
of that commit, with this project's cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.adapters import dvc, git
from pipelines.errors import PipelineError

MARK = "<!-- perennial: compare -->"
"""By this the pull request's one comment is found again."""
OUT = Path("compare.md")
PAGES = Path("dvc_plots")
CURVES = {
    "roc.csv": ("ROC", "false_positive_rate", "true_positive_rate"),
    "precision_recall.csv": ("Precision by recall", "recall", "precision"),
}
"""Plots that a comment can draw, whose x goes from 0 to 1; all are in `dvc_plots/index.html`."""
POINTS = 21
WORKSPACE = "workspace"
Points = list[tuple[float, float]]


def main(base: str) -> None:
    root = Path.cwd()
    commit = git.git(root, "rev-parse", "--verify", f"{base}^{{commit}}")
    with results_of(root, commit) as recorded:
        numbers = _dvc(root, "metrics", "diff", recorded, "--json", "--all")
        plots = _dvc(root, "plots", "diff", recorded, "--json")
        subprocess.run(
            ["dvc", "plots", "diff", recorded, "--out", str(PAGES)],
            cwd=root, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    text = page(base, commit, numbers, curves(plots, recorded))
    OUT.write_text(text, encoding="utf-8")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(text)
    print(text)
    print(f"written to {OUT}; every plot: {PAGES}/index.html", file=sys.stderr)


@contextlib.contextmanager
def results_of(root: Path, commit: str) -> Iterator[str]:
    """A commit whose results are in the cache: this one, or one made of it that no branch holds."""
    if _there(root, commit):
        yield commit
        return
    print(f"{commit[:12]} has no results in the cache; they are made now", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="perennial-base-") as home:
        tree = Path(home) / "tree"
        git.git(root, "worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            dvc.share(root, tree)
            # The base's own code, which an editable installation would not take.
            env = os.environ | {"PYTHONPATH": str(tree), "PERENNIAL_ROOT": str(tree)}
            dvc.dvc(tree, "repro", "--quiet", env=env)
            yield git.commit(tree, f"results of {commit}", "dvc.lock")
        finally:
            git.git(root, "worktree", "remove", "--force", str(tree))


def _there(root: Path, commit: str) -> bool:
    """Are its metrics in the cache, or in the remote?"""
    from dvc.api import metrics_show

    try:
        return bool(metrics_show(repo=str(root), rev=commit))
    except FileNotFoundError:
        return False


def _dvc(root: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(["dvc", *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(
            f"dvc {' '.join(words)} failed: {done.stderr.strip()[-500:]}. "
            "Make this tree's results with: dvc repro"
        )
    return dict(json.loads(done.stdout))


def curves(plots: Mapping[str, Any], base: str) -> dict[str, tuple[Points, Points]]:
    """Plot's file -> its points at the base and here; only those that both have, and that differ."""
    found = {}
    for file, ways in plots.get("data", {}).items():
        if Path(file).name not in CURVES:
            continue
        _, x, y = CURVES[Path(file).name]
        points: dict[str, Points] = {}
        for way in ways:
            for row in way["content"]["data"]["values"]:
                points.setdefault(row["rev"], []).append((float(row[x]), float(row[y])))
        before, now = points.get(base), points.get(WORKSPACE)
        if before and now and before != now:
            found[file] = (before, now)
    return found


def page(
    base: str, commit: str, numbers: Mapping[str, Any], drawn: Mapping[str, tuple[Points, Points]]
) -> str:
    """The comment. numbers: of `dvc metrics diff --json --all`; drawn: of `curves`."""
    parts = [MARK, f"### Results against `{base}` ({commit[:12]})", ""]
    for file, values in sorted(numbers.items()):
        rows = [_row(name, change) for name, change in sorted(values.items())]
        changed = [row for row in rows if not row.endswith("| = |")]
        parts += [f"`{file}`: {len(changed)} of {len(rows)} numbers changed", ""]
        if changed:
            parts += ["| metric | before | now | change |", "|:--|--:|--:|--:|", *changed, ""]
    if not numbers:
        parts += ["No metrics on either side.", ""]
    for file, (before, now) in sorted(drawn.items()):
        parts += _chart(file, base, before, now)
    return "\n".join(parts)


def _row(name: str, change: Mapping[str, Any]) -> str:
    old, new, by = change.get("old"), change.get("new"), change.get("diff")
    told = "=" if old == new else f"{by:+.4g}" if isinstance(by, float | int) else "other"
    return f"| {name} | {_shown(old)} | {_shown(new)} | {told} |"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.5g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _chart(file: str, base: str, before: Points, now: Points) -> list[str]:
    """A Mermaid chart, which the pull request's page draws by itself: no image to be hosted."""
    title, x, y = CURVES[Path(file).name]
    lines = [_resampled(points) for points in (before, now)]
    return [
        f"<details><summary>{title}: <code>{file}</code></summary>",
        "",
        "```mermaid",
        "xychart-beta",
        f'  title "{title}: first line {base}, second this change"',
        f'  x-axis "{x}" 0 --> 1',
        f'  y-axis "{y}" 0 --> 1',
        *(f"  line [{', '.join(f'{value:.3f}' for value in line)}]" for line in lines),
        "```",
        "",
        "</details>",
        "",
    ]


def _resampled(points: Points) -> list[float]:
    """Heights at POINTS even places from 0 to 1, on straight lines between the points.

    >>> _resampled([(0.0, 0.0), (1.0, 1.0)])[10]
    0.5
    """
    import numpy as np

    ordered = sorted(points)
    xs, ys = zip(*ordered, strict=True)
    return [float(v) for v in np.interp(np.linspace(0, 1, POINTS), xs, ys)]


def run(words: Sequence[str]) -> int:
    try:
        main(words[0])
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
