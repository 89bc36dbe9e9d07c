"""Loopback ports in the place of pod addresses and Services: each is given once and stays the same across restarts."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

_RANGE = range(20_000, 32_000)
"""Below the ports from which the system takes those of outgoing connections, so that a restart never finds its port gone."""


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_listening(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1; where the system tells, without a connection that a server would log."""
    table = Path("/proc/net/tcp")
    if table.exists():
        lines = [
            line.split() for path in (table, Path("/proc/net/tcp6")) if path.exists() for line in path.open()
        ]
        return any(line[3] == "0A" and line[1].endswith(f":{port:04X}") for line in lines)
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class PortTable:
    """Name → port, kept in a file.

    Args:
        path: the file; what it holds is taken over, except ports that somebody else has taken meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        saved: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        self._ports = {name: port for name, port in saved.items() if is_free(port)}

    def port(self, name: str) -> int:
        """The port of a name; a new one where it has none yet."""
        if name not in self._ports:
            self._ports[name] = self._unused()
            self._save()
        return self._ports[name]

    def alias(self, name: str, port: int) -> None:
        """Let a name mean a port that another name has already, unless it has one."""
        if self._ports.setdefault(name, port) == port:
            self._save()

    def _unused(self) -> int:
        taken = set(self._ports.values())
        for port in random.SystemRandom().sample(_RANGE, len(_RANGE)):
            if port not in taken and is_free(port):
                return port
        raise OSError("no free port between 20000 and 32000")

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(self._ports))
        temporary.replace(self._path)
