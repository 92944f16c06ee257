"""Passwords and keys of the stack: made once, each in a file that only its owner reads."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from pipelines.stack.places import Places

DATABASE_USER = "perennial"
ADMIN = "admin"


@dataclass(frozen=True)
class Secrets:
    """Where each secret lies; programs are told the file, never what is in it."""

    folder: Path

    @property
    def logins(self) -> Path:
        """Who may sign in to Airflow: {"admin": password}; Airflow reads it as it is."""
        return self.folder / "airflow_logins.json"

    @property
    def jwt(self) -> Path:
        return self.folder / "airflow_jwt"

    @property
    def fernet(self) -> Path:
        return self.folder / "airflow_fernet"

    @property
    def session(self) -> Path:
        return self.folder / "airflow_session"

    @property
    def pgpass(self) -> Path:
        """PostgreSQL's password in the form that libpq and asyncpg read by PGPASSFILE."""
        return self.folder / "pgpass"

    @property
    def database(self) -> Path:
        """The same password alone, as compose.yaml's PostgreSQL wants it."""
        return self.folder / "postgres_password"

    @property
    def service(self) -> Path:
        """compose.yaml's service listens to other machines, and wants a key."""
        return self.folder / "service_key"

    def admin_password(self) -> str:
        return str(json.loads(self.logins.read_text(encoding="utf-8"))[ADMIN])

    def database_password(self) -> str:
        return self.database.read_text(encoding="utf-8")


def ensure(places: Places) -> Secrets:
    """Makes what is missing; what is there stays."""
    folder = places.secrets
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    made = Secrets(folder)
    _once(made.logins, json.dumps({ADMIN: secrets.token_urlsafe(18)}))
    # HS512, Airflow's choice, wants 64 bytes.
    _once(made.jwt, secrets.token_hex(64))
    _once(made.fernet, base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    _once(made.session, secrets.token_hex(32))
    _once(made.service, secrets.token_hex(24))
    _once(made.database, secrets.token_hex(24))
    _once(made.pgpass, f"*:*:*:{DATABASE_USER}:{made.database_password()}")
    return made


def _once(path: Path, content: str) -> None:
    """Never readable by others, not even while it is written; never half written."""
    if path.exists():
        path.chmod(0o600)
        return
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    temporary.replace(path)
