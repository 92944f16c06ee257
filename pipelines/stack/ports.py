"""Ports of this machine: free, or who has them."""

from __future__ import annotations

import socket

import psutil

from pipelines.errors import ParamsError
from pipelines.stack.part import Part

HOST = "127.0.0.1"


def must_be_free(part: Part) -> None:
    """Raises ParamsError naming the port, who has it, and the variable that chooses another."""
    if part.port is None or _free(part.port):
        return
    raise ParamsError(
        f"port {part.port}, wanted for {part.name}, is taken by {_holder(part.port)}. "
        f"Choose another with: {part.port_setting}={part.port + 1} make up"
    )


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # Connections that linger after a server's end do not keep the next one from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _holder(port: int) -> str:
    unknown = "a process that this user cannot see"
    try:
        listening = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # macOS shows connections to root only
        return unknown
    for connection in listening:
        local = connection.laddr
        if connection.status == psutil.CONN_LISTEN and local and local.port == port:
            if connection.pid is None:
                return unknown
            try:
                words = " ".join(psutil.Process(connection.pid).cmdline())
            except psutil.Error:  # ended, or another user's
                words = "its command cannot be read"
            return f"process {connection.pid} ({words[:120]})"
    return unknown
