"""One part of the stack, before it runs: what is started, on which port, how its health is asked."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines import store

Ask = Callable[[float], str | None]
"""Takes when the part was started (seconds since 1970); gives what is wrong, None when healthy."""


@dataclass(frozen=True)
class Part:
    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Added to that of the shell."""
    ask: Ask
    url: str | None = None
    port: int | None = None
    port_setting: str = ""
    """The variable that chooses `port`."""
    needs: tuple[str, ...] = ()
    """Parts that must be healthy before this one starts."""
    prepare: Callable[[], None] | None = None
    """What must be there before it starts: a database, a folder."""
    user: str | None = None
    """Runs as this user; only root can ask for another than itself."""
    stop: signal.Signals = signal.SIGTERM
    patience: float = 30.0
    """Seconds that it gets to stop by itself."""

    @property
    def settings(self) -> str:
        """The same for the same command in the same environment; where programs lie is left out."""
        told = {k: v for k, v in self.environment.items() if k not in ("PATH", "PYTHONPATH")}
        return store.digest_of([self.command, told])


def errand(
    name: str, command: tuple[str, ...], environment: Mapping[str, str], user: str | None = None
) -> Part:
    """A command that ends by itself, started and stopped as a part is."""
    return Part(name, command, environment, ask=lambda _: None, user=user)


Run = Callable[[Part], None]
"""Runs an errand to its end. Raises ServiceError when it fails."""
