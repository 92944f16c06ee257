"""The stack for a server, read without Docker: pytest tests/test_compose.py

compose.yaml describes what `make up` starts, and the slow tests of the stack run; here the two are
held together, and the files to the rules that images are judged by.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines import notify
from pipelines.stack import airflow, choices, plan, secrets
from pipelines.stack.places import Places
from pipelines.stack.postgres import DATABASES
from tests.conftest import REPOSITORY

COMPOSE = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
DOCKERFILES = sorted((REPOSITORY / "ops" / "docker").glob("*.Dockerfile"))
ENDS_BY_ITSELF = {"airflow-migrate"}
LISTENING = ("--host", "--port", "--allowed-hosts", "--artifacts-destination")
OF_THE_SHELL = {
    notify.ADDRESS: "airflow-",
    "PERENNIAL_WEBHOOK_SECRET": "service-",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "service-",
    "AWS_ACCESS_KEY_ID": "mlflow",
    "AWS_SECRET_ACCESS_KEY": "mlflow",
    "AWS_DEFAULT_REGION": "mlflow",
    "MLFLOW_S3_ENDPOINT_URL": "mlflow",
}
"""Given by a person, and in no file: the variable, and whose part reads it."""

dockerfiles = pytest.mark.parametrize("file", DOCKERFILES, ids=[f.stem for f in DOCKERFILES])
services = pytest.mark.parametrize("name", SERVICES)


def instructions(file: Path) -> list[tuple[str, str]]:
    """(INSTRUCTION, the rest), continued lines joined, comments left out."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(pair[0].upper(), pair[1]) for pair in pairs]


def planned(folder: Path) -> dict[str, plan.Part]:
    """The parts of `make up` with PostgreSQL, and artifacts that only the server writes."""
    places, given = Places(folder), {"PATH": "", "PYTHONPATH": ""}
    chosen = choices.Choices(store="postgres", artifacts="/artifacts")
    parts = plan.parts(places, chosen, secrets.ensure(places), given, lambda errand: None)
    return {part.name: part for part in parts}


def what_it_does(command: tuple[str, ...] | list[str]) -> list[str]:
    """The words after `python -m`, without where it listens."""
    words, kept = list(command[command.index("-m") + 1 :]), []
    while words:
        word = words.pop(0)
        if word in LISTENING:
            words.pop(0)
        else:
            kept.append(word)
    return kept


# the files themselves


@dockerfiles
def test_hadolint_finds_nothing(file):
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@dockerfiles
def test_an_image_is_built_in_stages_from_pinned_bases(file):
    bases = [rest.split()[0] for word, rest in instructions(file) if word == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"[a-z/]+:\d+\.\d+(\.\d+)?-[a-z-]+", base) for base in bases)


@dockerfiles
def test_an_image_does_not_run_as_root(file):
    last = [rest for word, rest in instructions(file) if word == "USER"][-1]
    assert last.split(":")[0].isdigit()
    assert last.split(":")[0] != "0"


@dockerfiles
def test_an_image_takes_nothing_from_an_address_and_leaves_no_package_lists(file):
    for word, rest in instructions(file):
        assert word != "ADD"
        assert not re.search(r"\b(curl|wget)\b", rest)
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists" in rest


@dockerfiles
def test_an_image_says_how_its_health_is_asked(file):
    assert "HEALTHCHECK" in [word for word, _ in instructions(file)]


@dockerfiles
def test_what_an_image_copies_is_in_the_build_context(file):
    allowed = [
        line[1:]
        for line in (REPOSITORY / ".dockerignore").read_text().split()
        if line.startswith("!")
    ]
    for word, rest in instructions(file):
        if word == "COPY" and "--from" not in rest:
            for source in [w for w in rest.split() if not w.startswith("--")][:-1]:
                assert (REPOSITORY / source).is_file()
                assert any(source.startswith(place) for place in allowed)


# the services


@services
def test_every_image_is_built_here_or_pinned(name):
    service = SERVICES[name]
    if "build" in service:
        assert (REPOSITORY / service["build"]["dockerfile"]).is_file()
    else:
        assert re.search(r":\d+\.\d+", service["image"])


@services
def test_every_service_that_stays_has_a_health_check(name):
    check = SERVICES[name]["healthcheck"]
    assert check == {"disable": True} if name in ENDS_BY_ITSELF else check["test"][0] == "CMD"


@services
def test_every_service_starts_again_and_what_it_needs_is_there(name):
    service = SERVICES[name]
    assert service["restart"] == ("no" if name in ENDS_BY_ITSELF else "unless-stopped")
    for other, when in service.get("depends_on", {}).items():
        ends = other in ENDS_BY_ITSELF
        wanted = "service_completed_successfully" if ends else "service_healthy"
        assert when == {"condition": wanted}
        assert other in SERVICES


@services
def test_no_secret_is_in_an_environment(name):
    for variable, value in SERVICES[name]["environment"].items():
        if value is None:  # the shell's own
            continue
        if re.search("PASSWORD|SECRET|KEY|TOKEN|PASSFILE", variable):
            assert "/run/" in value, variable
        assert not re.search(r"://[^/]*:[^/]*@", value), variable


@services
def test_ports_are_open_to_this_machine_only(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_secrets_are_files_that_perennial_stack_secrets_makes(tmp_path):
    made = {file.name for file in secrets.ensure(Places(tmp_path)).folder.iterdir()}
    named = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert named | {"airflow_logins.json"} == made
    used = {s for service in SERVICES.values() for s in service["secrets"]}
    assert used == set(COMPOSE["secrets"])


@services
def test_every_secret_that_a_service_reads_is_mounted_there(name):
    service = SERVICES[name]
    told = " ".join(value for value in service["environment"].values() if value)
    assert set(re.findall(r"/run/secrets/(\w+)", told)) == set(service["secrets"])


def test_every_named_volume_is_declared():
    mounts = [m for s in SERVICES.values() for m in s["volumes"] if isinstance(m, str)]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}
    assert named == set(COMPOSE["volumes"])


# the same stack as `make up`


def test_the_parts_are_those_of_make_up(project_folder):
    assert set(SERVICES) - ENDS_BY_ITSELF == set(planned(project_folder))


def test_every_command_is_one_that_make_up_runs(project_folder):
    for name, part in planned(project_folder).items():
        if name != "postgres":
            assert what_it_does(SERVICES[name]["command"]) == what_it_does(part.command)
    _, _, script = SERVICES["airflow-migrate"]["command"]
    assert script.startswith("python -m airflow db migrate && ")


def test_airflow_has_every_setting_that_make_up_gives_it(project_folder):
    here = planned(project_folder)["airflow-scheduler"].environment
    there = SERVICES["airflow-scheduler"]["environment"]
    by_image = {"PATH", "PYTHONPATH", "PERENNIAL_ROOT"}
    # A service of `make up` wants no key, and what the shell has reaches every part of it.
    by_compose = {"PERENNIAL_API_KEY_FILE", notify.ADDRESS}
    assert set(there) - by_compose == set(here) - by_image
    assert {name: there[name] for name in airflow.CHANGEABLE} == airflow.CHANGEABLE


def test_what_the_shell_has_for_a_part_of_make_up_reaches_it_here_too():
    for name, service in SERVICES.items():
        passed = {n for n, value in service["environment"].items() if value is None}
        assert passed == {n for n, parts in OF_THE_SHELL.items() if name.startswith(parts)}


def test_airflow_asks_the_service_with_the_services_own_key():
    theirs, ours = (SERVICES[n]["environment"] for n in ("service-flights", "airflow-scheduler"))
    assert ours["PERENNIAL_API_KEY_FILE"] == theirs["PERENNIAL_API_KEY_FILE"]


def test_the_databases_are_those_of_make_up():
    made = (REPOSITORY / "ops" / "docker" / "databases.sql").read_text()
    assert re.findall(r"CREATE DATABASE (\w+);", made) == list(DATABASES)


def test_the_health_check_of_a_container_fails_on_a_server_that_is_not_there():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "ops" / "docker" / "healthy.py", "http://127.0.0.1:9/health"],
        cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "does not answer" in done.stderr


# where one machine is outgrown


def test_the_pod_of_a_step_is_valid_yaml_without_root_and_train_asks_for_a_gpu():
    text = (REPOSITORY / "docs" / "scaling.md").read_text()
    pod, train = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S))
    (container,) = pod["spec"]["containers"]
    assert container["name"] == "base"  # Airflow puts its own command into the one of this name
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert train["resources"]["limits"]["nvidia.com/gpu"] == 1
