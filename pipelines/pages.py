"""Small pages for people: one HTML file, no script, and nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from pipelines.records import Finding, Validation

Tone = Literal["good", "fair", "bad"]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --fair: #9a6700; --bad: #cf222e }
@media (prefers-color-scheme: dark) { :root { --good: #3fb950; --fair: #d29922; --bad: #f85149 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.verdict { border-left: .4rem solid; padding: .4rem .8rem; font-size: 1.1rem }
.good { color: var(--good) } .fair { color: var(--fair) } .bad { color: var(--bad) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem }
dt { opacity: .7 } dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem }
tr { border-top: 1px solid var(--line) }
""".strip()


@dataclass(frozen=True)
class Table:
    """Rows under one heading; each row as long as `columns`, its tone colours its first cell."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[tuple[Tone, Sequence[str]]]


def page(
    title: str, verdict: str, tone: Tone, facts: Mapping[str, str], tables: Sequence[Table]
) -> str:
    """All texts are plain and escaped here. The same arguments give the same bytes."""
    said = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    # The policy makes a promise of the first line: nothing is fetched, nothing runs.
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{STYLE}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="verdict {tone}">{escape(verdict)}</p>
<dl>{said}</dl>
{"".join(map(_table, tables))}</body>
</html>
"""


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    body = "".join(f"<tr>{_cells(tone, cells)}</tr>\n" for tone, cells in table.rows)
    return (
        f"<h2>{escape(table.heading)}</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}</tbody>\n</table>\n"
    )


def _cells(tone: Tone, cells: Sequence[str]) -> str:
    first, *others = (escape(cell) for cell in cells)
    return f'<td class="{tone}">{first}</td>' + "".join(f"<td>{cell}</td>" for cell in others)


def validation(result: Validation) -> str:
    """What the door said of one batch: what is broken first, then every rule that was asked."""
    stopping = [f for f in result.findings if f.stops]
    warned = [f for f in result.failures if not f.stops]
    kept = [f for f in result.findings if f.passed]
    if stopping:
        verdict = f"Stopped: {_count(stopping, 'broken rule')}. The batch is in quarantine."
    elif warned:
        verdict = f"Accepted with {_count(warned, 'warning')}."
    else:
        verdict = "Accepted: every rule of the contract holds."
    columns = ("rule", "column", "observed", "allowed")
    return page(
        f"{result.task}, batch {result.period}",
        verdict,
        "bad" if stopping else "fair" if warned else "good",
        {
            "rows": f"{result.rows:,}",
            "md5 of the batch": result.content,
            "digest of the contract": result.contract,
            "contract": f"contracts/{result.task}.yaml",
        },
        [
            Table("Broken", columns, [_row("bad", f) for f in stopping]),
            Table("Warnings", columns, [_row("fair", f) for f in warned]),
            Table("Held", columns, [_row("good", f) for f in kept]),
        ],
    )


def _count(findings: Sequence[Finding], what: str) -> str:
    return f"{len(findings)} {what}{'' if len(findings) == 1 else 's'}"


def _row(tone: Tone, finding: Finding) -> tuple[Tone, tuple[str, ...]]:
    return tone, (finding.rule, finding.column or "the batch", finding.observed, finding.allowed)
