"""Run: pytest tests/test_ops.py

The dashboard and the alert rules ask only for what the service really says of itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.__main__ import cli
from tests.conftest import REPOSITORY

OPS = REPOSITORY / "ops"
RULES = yaml.safe_load((OPS / "alerts.yaml").read_text())["groups"][0]["rules"]
TESTS = yaml.safe_load((OPS / "alerts_test.yaml").read_text())["tests"]
DASHBOARD = json.loads((OPS / "grafana" / "perennial.json").read_text())
SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds to all it reads."""

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed: apt install prometheus"
)

METERS = """
import json
from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.metrics import MetricWrapperBase
from pipelines.service.meters import Meters

for meter in list(vars(Meters("shop", wire=None)).values()):
    if isinstance(meter, MetricWrapperBase):
        one = meter if meter._labelvalues else meter.labels(*meter._labelnames)
        getattr(one, {"counter": "inc", "gauge": "set", "histogram": "observe"}[one._type])(1)
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
samples = [sample for metric in registry.collect() for sample in metric.samples]
print(json.dumps({sample.name: sorted(sample.labels) for sample in samples}))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Metric -> its labels, as the workers write them and /metrics adds them up.

    In a process of its own: the metrics' folder must be named before their library is imported.
    """
    folder = str(tmp_path_factory.mktemp("metrics"))
    done = subprocess.run(
        [sys.executable, "-c", METERS], capture_output=True, text=True, check=False,
        cwd=REPOSITORY, env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": folder},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: set(labels) for name, labels in json.loads(done.stdout).items()}


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def queries() -> list[tuple[str, str]]:
    """(where it stands, what it asks), of the rules and the dashboard."""
    return [
        *((rule["alert"], rule["expr"]) for rule in RULES),
        *((panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]),
        *((a["name"], a["expr"]) for a in DASHBOARD["annotations"]["list"]),
    ]


def metrics_of(expression: str) -> set[str]:
    return set(re.findall(r"\bperennial_\w+", expression))


def wrong_labels(expression: str, said: dict[str, set[str]]) -> set[str]:
    """Labels that the expression names and that what it asks of does not have."""
    known = SCRAPED.union(*(said.get(name, set()) for name in metrics_of(expression)))
    wrong = set()
    for name, matchers in re.findall(r"\b(perennial_\w+)\{([^}]*)\}", expression):
        wrong |= (
            set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) - said.get(name, set()) - SCRAPED
        )
    for names in re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expression):
        wrong |= set(re.findall(r"\w+", names)) - known
    return wrong


@pytest.mark.parametrize(("where", "expression"), queries())
def test_every_metric_and_label_that_is_asked_for_exists(
    where: str, expression: str, said: dict[str, set[str]]
) -> None:
    assert metrics_of(expression) - set(said) == set()
    assert wrong_labels(expression, said) == set()


@pytest.mark.parametrize(
    "expression",
    [
        'perennial_requests{status="200"}',
        "perennial_request_seconds > 1",
        'perennial_requests_total{code="200"}',
        "sum by (version) (perennial_requests_total)",
    ],
)
def test_a_metric_or_label_that_is_not_there_is_noticed(
    expression: str, said: dict[str, set[str]]
) -> None:
    assert metrics_of(expression) - set(said) or wrong_labels(expression, said)


def test_the_dashboard_shows_every_metric(said: dict[str, set[str]]) -> None:
    shown = set().union(*(metrics_of(t["expr"]) for p in panels() for t in p["targets"]))
    whole = {name for name in said if not name.endswith(("_sum", "_count", "_created"))}
    assert shown == whole


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in panels():
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = re.search(r"\bby \(([^)]*)\)", target["expr"])
            assert kept is None or named <= set(re.findall(r"\w+", kept[1])), panel["title"]


def test_panels_have_their_own_ids_and_places_and_the_chosen_data_source() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_it_means_and_what_to_type(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "description", "command"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    for command in re.findall(r"\bperennial (\w+)", rule["annotations"]["command"]):
        assert command in cli.commands


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_is_tested_to_fire(rule: dict[str, Any]) -> None:
    fired = [
        case
        for test in TESTS
        for case in test.get("promql_expr_test", [])
        if f'"{rule["alert"]}"' in case["expr"] and case["exp_samples"]
    ]
    assert fired


def test_what_the_alerts_are_tested_on_is_what_the_service_says(said: dict[str, set[str]]) -> None:
    for test in TESTS:
        for series in (one["series"] for one in test["input_series"]):
            name, labels = re.fullmatch(r"(\w+)\{(.*)\}", series).groups()  # type: ignore[union-attr]
            given = set(re.findall(r"(\w+)=", labels)) - SCRAPED
            assert given == (said[name] if name != "up" else set()), series


def test_alerts_named_in_the_dashboard_exist() -> None:
    named = {name for p in panels() for name in re.findall(r"Alert: (\w+)", p["description"])}
    assert named
    assert named <= {rule["alert"] for rule in RULES}


def test_the_quiet_monitor_is_told_with_the_days_that_the_rule_waits() -> None:
    (quiet,) = (rule for rule in RULES if rule["alert"] == "PerennialMonitorQuiet")
    (days,) = re.findall(r"> (\d+) \* 86400", quiet["expr"])
    assert f" {days} days" in quiet["annotations"]["description"]


# with the real tool ---------------------------------------------------------------------------


def promtool(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


@needs_promtool
def test_prometheus_takes_the_settings_and_the_rules() -> None:
    done = promtool(OPS, "check", "config", "prometheus.yaml")
    assert done.returncode == 0, done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


@needs_promtool
def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    words = {"$__rate_interval": "5m", "$__interval": "5m", "$task": ".*", "$instance": ".*"}
    rules = []
    for i, (_, expression) in enumerate(queries()):
        for word, stand_in in words.items():
            expression = expression.replace(word, stand_in)
        rules.append({"record": f"asked:{i}", "expr": expression})
    (tmp_path / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]})
    )
    done = promtool(tmp_path, "check", "rules", "rules.yaml")
    assert done.returncode == 0, done.stderr


@needs_promtool
def test_alerts_fire_when_they_must_and_only_then() -> None:
    done = promtool(OPS, "test", "rules", "alerts_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize(
    "spoiled", [{"expr": "vector(1) > 2"}, {"expr": "vector(1)"}], ids=["never", "always"]
)
def test_an_alert_that_never_or_always_fires_fails_its_test(
    spoiled: dict[str, str], tmp_path: Path
) -> None:
    shutil.copy(OPS / "alerts_test.yaml", tmp_path)
    rules = [rule | spoiled for rule in RULES]
    (tmp_path / "alerts.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]})
    )
    done = promtool(tmp_path, "test", "rules", "alerts_test.yaml")
    assert done.returncode != 0
    asked = re.findall(r'expr: "(.+)", time:', done.stdout + done.stderr)
    failed = {name for one in asked for name in re.findall(r'alertname=\\"(\w+)\\"', one)}
    assert failed == {rule["alert"] for rule in RULES}
