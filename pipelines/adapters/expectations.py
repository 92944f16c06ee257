"""Great Expectations: a batch held against its contract, and what came of it in our own words.

The verdict is never GX's overall `success`: it ignores severity and crashes, and most expectations
pass on an empty frame. Each result becomes a Finding, and `Finding.stops` decides.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from pipelines import leakage
from pipelines.adapters import amounts, data_docs, image_rules, suite
from pipelines.adapters.suite import Rule
from pipelines.contract import Contract
from pipelines.records import Finding
from pipelines.stored import texts_as_levels

with warnings.catch_warnings():
    # Deprecations inside the library and in what it imports: nothing here can change them.
    warnings.simplefilter("ignore")
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

LENIENT = {"values": "new_values", **image_rules.LENIENT}
EXAMPLES = 3
"""Offending values that a message shows."""
ROWS_THAT = {
    "nulls": "have no value",
    "finite": "are infinite",
    "range": "lie outside",
    "hours": "lie at other hours",
    "values": "hold another value",
    "at_most": "exceed it",
    "period": "lie outside the period",
    "sorted": "come after a later one",
    "key": "share their key with another row",
    "label": "hold another label",
    "readable": "cannot be read",
    "size": "have another size",
    "mode": "have another mode",
    "plain": "are of one colour",
    "duplicates": "repeat a picture",
    "balance": "are of a class with another share",
}


def check(
    table: pd.DataFrame,
    contract: Contract,
    period: str,
    length: str,
    history: Sequence[int],
    docs: Path | None = None,
    earlier: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> tuple[Finding, ...]:
    """Every rule of the contract against one batch, in the contract's order.

    table: as read from Parquet. length: of the period, e.g. month. history: row counts of the
    earlier accepted batches. docs: folder for GX's own Data Docs, `site/index.html` inside it; left
    out, none are made. earlier: the pictures of earlier batches, as `pipelines/looks.py` knows them.
    The same arguments give the same findings, to the letter.
    """
    unclear = _unclear_names(table)
    if unclear:
        return unclear
    table = texts_as_levels(table)
    beside = image_rules.beside(table, contract, earlier)
    rules = suite.rules(table, contract, period, length, history, [str(n) for n in beside.columns])
    rules += beside.rules
    checked = pd.concat([table, beside.columns], axis=1) if beside.rules else table
    result = validate(checked, rules, contract)
    if docs is not None:
        data_docs.write(result, rules, contract.task, period, docs)
    answers = answers_by_rule(result)
    findings = [
        finding
        for number, rule in enumerate(rules)
        for finding in _findings(rule, answers.get(number), table, contract)
    ]
    return (*findings, *leakage.findings(table, contract))


def validate(table: pd.DataFrame, rules: Sequence[Rule], contract: Contract) -> Any:
    """Run the rules; GX's own result. An expectation's meta says which rule it answers."""
    stores = InMemoryStoreBackendDefaults()
    quiet = ProgressBarsConfig(globally=False)
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(store_backend_defaults=stores, progress_bars=quiet),
    )
    asset = context.data_sources.add_pandas("batches").add_dataframe_asset(contract.task)
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": table})
    for number, rule in enumerate(rules):
        rule.expectation.severity = rule.severity
        rule.expectation.meta = {"rule": number}
    return batch.validate(
        gx.ExpectationSuite(name=contract.task, expectations=[r.expectation for r in rules]),
        result_format={
            "result_format": "BASIC",
            # Personal values never leave the batch: not for a message, not for the Data Docs.
            "exclude_unexpected_values": any(c.personal for c in contract.columns.values()),
        },
    )


def answers_by_rule(result: Any) -> dict[int, Any]:
    return {r.expectation_config.meta["rule"]: r for r in result.results}


def _findings(rule: Rule, answer: Any, table: pd.DataFrame, contract: Contract) -> list[Finding]:
    """One finding, but one a column where columns are missing or unexpected."""
    crash = "gave no answer" if answer is None else _crash(answer.exception_info)
    if crash:
        return [_broken(rule, rule.column, f"the check itself failed: {crash}", crashed=True)]
    if answer.success is True:
        held = Finding(
            rule=rule.name,
            column=rule.column,
            severity=rule.severity,
            passed=True,
            observed=_observed(rule, answer.result, table),
            allowed=rule.allowed,
        )
        few = rule.name in LENIENT and answer.result["unexpected_count"]
        # Few enough to let in, and worth knowing: the first day of a new category.
        warned = replace(rule, name=LENIENT.get(rule.name, ""), severity="warning")
        return [held, _broken(warned, rule.column, held.observed)] if few else [held]
    if rule.name == "columns":
        wrong = answer.result["details"]["mismatched"]
        return [
            *(_broken(rule, name, "is missing") for name in wrong.get("missing", ())),
            *(_broken(rule, name, "is not described") for name in wrong.get("unexpected", ())),
        ]
    if rule.name == "order":
        at = zip(table.columns, contract.columns, strict=True)
        place, (seen, due) = next(item for item in enumerate(at, 1) if item[1][0] != item[1][1])
        return [_broken(rule, due, f"{seen} stands in its place, {place} from the left")]
    return [_broken(rule, rule.column, _observed(rule, answer.result, table))]


def _broken(rule: Rule, column: str | None, observed: str, crashed: bool = False) -> Finding:
    return Finding(
        rule=rule.name,
        column=column,
        severity=rule.severity,
        passed=False,
        crashed=crashed,
        observed=observed,
        allowed=rule.allowed,
        message=f"{column or 'the batch'} breaks {rule.name}: {observed}; allowed: {rule.allowed}",
    )


def _crash(info: Any) -> str:
    """First line of what a check raised; GX sometimes nests it under the name of a metric."""
    if '"raised_exception": true' not in json.dumps(info, default=str):
        return ""
    inner = info if "raised_exception" in info else next(iter(info.values()))
    return (str(inner.get("exception_message") or "") or "an unnamed exception").splitlines()[0]


def _observed(rule: Rule, result: dict[str, Any], table: pd.DataFrame) -> str:
    if rule.name in ROWS_THAT:
        wrong = result["unexpected_count"]
        asked = result["element_count"] - result.get("missing_count", 0)
        if wrong == 0:
            return f"all {asked:,} rows"
        said = (
            f"{wrong:,} of {asked:,} rows ({amounts.share(wrong / asked)}) {ROWS_THAT[rule.name]}"
        )
        return said if rule.name == "nulls" else said + _examples(rule, result)
    value = result["observed_value"]
    match rule.name:
        case "columns" | "order":
            return f"{len(table.columns)} columns"
        case "rows" | "history":
            return f"{value:,} rows"
        case "type":
            held = table[rule.column]
            inferred = pd.api.types.infer_dtype(held, skipna=True)
            return f"{held.dtype} of {inferred}" if held.dtype == object else str(held.dtype)
        case "distinct":
            return f"{value:,} different values"
        case "classes":
            return f"{' and '.join(map(str, sorted(table[rule.column].dropna().unique())))} only"
        case _:
            return f"{rule.name} {amounts.number(value) if value is not None else 'unknown'}"


def _examples(rule: Rule, result: dict[str, Any]) -> str:
    """The first offending values; none where the contract has personal columns."""
    if rule.name in image_rules.RULES:
        return f": {', '.join(rule.named)}" if rule.named else ""
    shown = dict.fromkeys(map(_shown, result.get("partial_unexpected_list", ())))
    return f", e.g. {'; '.join(list(shown)[:EXAMPLES])}" if shown else ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # a key: its columns' values
        return " ".join(map(str, value.values()))
    if isinstance(value, tuple):  # a pair: the one that must be at least the other
        return " and ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return repr(value) if isinstance(value, str) else str(value)


def _unclear_names(table: pd.DataFrame) -> tuple[Finding, ...]:
    """Names that occur twice or are no text: no rule can be asked of such a column."""
    counts = Counter(table.columns)
    return tuple(
        Finding(
            rule="columns",
            column=str(name),
            severity="critical",
            passed=False,
            observed=f"a {type(name).__name__} that names {count} columns",
            allowed="each column once, named by text",
            message=f"{name} breaks columns: a {type(name).__name__} that names {count} columns; "
            "allowed: each column once, named by text",
        )
        for name, count in counts.items()
        if count > 1 or not isinstance(name, str)
    )
