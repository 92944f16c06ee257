"""GitHub Actions call only the Makefile, and hold no more power than they need:
pytest tests/test_workflows.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent
HOME = REPOSITORY / ".github" / "workflows"
TEXTS = {path.stem: path.read_text() for path in sorted(HOME.glob("*.yaml"))}
WORKFLOWS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = [
    pytest.param(name, job, id=f"{name}-{word}")
    for name, workflow in WORKFLOWS.items()
    for word, job in workflow["jobs"].items()
]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
WORDS = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))
WRITES = {("pipeline", "comment"): "pull-requests", ("canary", "tell"): "issues"}
"""The only jobs that may write anything, and what."""


def steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    return list(job["steps"])


def test_there_are_these_four_and_no_other_file():
    assert set(WORKFLOWS) == {"ci", "pipeline", "deliver", "canary"}
    assert {path.suffix for path in HOME.iterdir()} == {".yaml"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_each_action_is_pinned_by_commit_and_says_its_version(name: str):
    used = re.findall(r"uses:(.*)", TEXTS[name])
    assert used
    for line in used:
        assert re.fullmatch(r" actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_an_action_is_the_same_commit_everywhere():
    pins = {line for text in TEXTS.values() for line in re.findall(r"uses: (.*)", text)}
    assert len({pin.split("@")[0] for pin in pins}) == len(pins)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_reads_and_a_job_writes_only_what_it_is_there_for(name: str):
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for word, job in workflow["jobs"].items():
        written = WRITES.get((name, word))
        assert job.get("permissions") == ({written: "write"} if written else None)


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_a_job_ends_in_time_and_keeps_no_token_on_disk(name: str, job: dict[str, Any]):
    assert 1 <= job["timeout-minutes"] <= 120
    for step in steps(job):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_a_job_that_may_write_runs_nothing_of_the_repository(name: str, job: dict[str, Any]):
    if "permissions" in job:
        for step in steps(job):
            assert "run" not in step
            assert "checkout" not in step["uses"]


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_each_command_is_a_word_of_the_makefile(name: str, job: dict[str, Any]):
    for step in steps(job):
        if "run" in step:
            found = re.fullmatch(r'make ([a-z-]+)( [A-Z]+=("\$HOME/[a-z-]+"|[a-z]+))*', step["run"])
            assert found, step["run"]
            assert found[1] in WORDS


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_what_others_wrote_reaches_commands_and_scripts_through_the_environment_only(
    name: str, job: dict[str, Any]
):
    for step in steps(job):
        assert "${{" not in step.get("run", "")
        assert "${{" not in step.get("with", {}).get("script", "")
        assert step.get("shell") is None


def test_a_secret_goes_only_where_it_is_used():
    for name, text in TEXTS.items():
        used = set(re.findall(r"secrets\.(\w+)", text))
        assert used == (
            {
                "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
                "REGISTRY_USER", "REGISTRY_PASSWORD",
            }
            if name == "deliver"
            else set()
        )  # fmt: skip
    (job,) = WORKFLOWS["deliver"]["jobs"].values()
    holders = [s["run"] for s in steps(job) if "REGISTRY_PASSWORD" in s.get("env", {})]
    assert holders == ["make push"]


def test_pull_requests_of_strangers_hold_no_secret_and_no_token_that_writes():
    for name, workflow in WORKFLOWS.items():
        assert "pull_request_target" not in workflow[True], name  # YAML reads `on` as true
        assert "workflow_run" not in workflow[True], name
    assert "pull_request" not in WORKFLOWS["deliver"][True]
    assert (
        "head.repo.full_name == github.repository" in WORKFLOWS["pipeline"]["jobs"]["comment"]["if"]
    )


def test_the_image_is_tried_before_it_is_pushed_and_pushed_only_where_a_registry_is_named():
    (job,) = WORKFLOWS["deliver"]["jobs"].values()
    order = [s["run"].split()[1] for s in steps(job) if "run" in s]
    assert order == ["setup", "champion", "smoke", "image", "smoke-image", "push"]
    assert steps(job)[-1]["if"] == "env.REGISTRY != ''"


def test_the_comment_is_found_again_by_the_mark_that_the_page_begins_with():
    from ops import compare

    assert f"const mark = '{compare.MARK}';" in TEXTS["pipeline"]
    assert compare.page("main", "c" * 40, {}, {}).startswith(compare.MARK)


def test_main_leaves_the_cache_that_a_pull_request_reads():
    """GitHub gives a pull request its own caches and main's, and no other one's."""
    when = WORKFLOWS["pipeline"][True]
    assert when["push"] == {"branches": ["main"], **when["pull_request"]}
    made = [s for s in steps(WORKFLOWS["pipeline"]["jobs"]["compare"]) if "if" not in s]
    assert [s["run"].split()[1] for s in made if "run" in s] == ["setup", "fetch", "repro", "store"]
    assert any("dvc-remote-" in s.get("with", {}).get("key", "") for s in made)


def test_whichever_job_of_the_weekly_run_fails_is_told_in_one_issue():
    jobs = WORKFLOWS["canary"]["jobs"]
    tell = jobs["tell"]
    assert set(tell["needs"]) == set(jobs) - {"tell"}
    *_, script = steps(tell)
    for name in tell["needs"]:
        assert f"needs.{name}.result != 'success'" in tell["if"]
        assert script["env"][name.upper()] == f"${{{{ needs.{name}.result }}}}"
        assert f"process.env.{name.upper()}" in script["with"]["script"]


def test_the_canary_names_the_tools_that_the_project_stands_on():
    from ops import newest

    known = newest.locked((REPOSITORY / "requirements.lock").read_text())
    assert set(newest.TOOLS) <= set(known)
