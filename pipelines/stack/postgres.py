"""A private PostgreSQL cluster as a part: on loopback only, with a password, under .perennial."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from pipelines.errors import MissingInput, ServiceError
from pipelines.stack.ask import exits_well
from pipelines.stack.choices import Choices
from pipelines.stack.part import Part, Run, errand
from pipelines.stack.places import Places
from pipelines.stack.ports import HOST
from pipelines.stack.secrets import DATABASE_USER, Secrets

NAME = "postgres"
DATABASES = ("airflow", "mlflow")
INSTALLED = Path("/usr/lib/postgresql")


def url(choices: Choices, database: str) -> str:
    """Without a password: that is read by PGPASSFILE."""
    return f"postgresql+psycopg2://{DATABASE_USER}@{HOST}:{choices.postgres}/{database}"


def programs(installed: Path = INSTALLED) -> Path:
    """Folder of the newest version's programs, as Debian lays them; else where the shell finds them."""
    found = [p for p in installed.glob("*/bin") if p.parent.name.isdigit()]
    if found:
        return max(found, key=lambda p: int(p.parent.name))
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    raise MissingInput(
        f"no PostgreSQL in {installed} nor on the path. Install it with: apt-get install postgresql, "
        "or use SQLite with: STORE=embedded make up"
    )


def runs_as() -> str:
    """PostgreSQL refuses root."""
    if os.getuid():
        return pwd.getpwuid(os.getuid()).pw_name
    if "postgres" not in (user.pw_name for user in pwd.getpwall()):
        raise MissingInput(
            "PostgreSQL refuses to run as root, and there is no user postgres to run it as. "
            "Make one with: useradd --system postgres, or run make up as a normal user"
        )
    return "postgres"


def part(places: Places, choices: Choices, secrets: Secrets, run: Run) -> Part:
    bin_folder = programs()
    return Part(
        name=NAME,
        command=(
            str(bin_folder / "postgres"), "-D", str(places.cluster), "-p", str(choices.postgres),
            "-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories=",
        ),
        environment={},
        ask=exits_well((str(bin_folder / "pg_isready"), "-h", HOST, "-p", str(choices.postgres))),
        url=f"postgresql://{DATABASE_USER}@{HOST}:{choices.postgres}",
        port=choices.postgres,
        port_setting="PERENNIAL_PORT_POSTGRES",
        prepare=_making(places, secrets, bin_folder, run),
        user=runs_as(),
        stop=signal.SIGINT,  # its "fast" stop: connections are closed, everything is written
    )  # fmt: skip


def _making(places: Places, secrets: Secrets, bin_folder: Path, run: Run) -> Callable[[], None]:
    def make() -> None:
        if places.cluster.is_dir():
            return
        user = pwd.getpwnam(runs_as())
        _must_reach(places.postgres.parent, user.pw_name)
        half, password = places.postgres / "making", places.postgres / "password"
        # Left by one that was killed.
        shutil.rmtree(half, ignore_errors=True)
        password.unlink(missing_ok=True)
        places.postgres.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.database_password())
        if os.getuid() == 0:
            for owned in (places.postgres, password):
                os.chown(owned, user.pw_uid, user.pw_gid)
        command = (
            str(bin_folder / "initdb"), "-D", str(half), "-U", DATABASE_USER, "-E", "UTF8",
            "--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={password}",
        )  # fmt: skip
        try:
            run(errand("postgres-initdb", command, {}, user.pw_name))
        finally:
            password.unlink()
        half.rename(places.cluster)

    return make


def make_databases(choices: Choices, secrets: Secrets) -> None:
    """Those that are not there yet."""
    bin_folder = programs()
    reach = ("-h", HOST, "-p", str(choices.postgres), "-U", DATABASE_USER, "--no-password")
    environment = os.environ | {"PGPASSFILE": str(secrets.pgpass)}
    listing = (
        str(bin_folder / "psql"),
        *reach,
        "-d",
        "postgres",
        "-Atqc",
        "SELECT datname FROM pg_database",
    )
    there = _run(listing, environment).split()
    for name in DATABASES:
        if name not in there:
            _run((str(bin_folder / "createdb"), *reach, name), environment)


def _run(command: tuple[str, ...], environment: dict[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise ServiceError(
            f"{' '.join(command)}: {done.stderr.strip()[-500:]}. See whether PostgreSQL runs with: "
            "perennial stack status"
        )
    return done.stdout


def _must_reach(folder: Path, user: str) -> None:
    """As root the cluster is another user's, who must come to it through every folder above."""
    if os.getuid():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for above in (folder, *folder.parents):
        if not above.stat().st_mode & 0o001:
            raise ServiceError(
                f"PostgreSQL refuses to run as root, and its user {user} cannot enter {above}. "
                f"Let it pass with: chmod o+x {above}, or run make up as a normal user"
            )
