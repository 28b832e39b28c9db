"""Processes of the services: started under their settings, ended with the block."""

import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from enrollment_demo.servers.keeper import kill_tree

#: Where the packages `settings` and `enrollment_demo` lie.
ROOT = Path(__file__).resolve().parent.parent.parent
#: Seconds for one to go down: more than gunicorn gives its requests.
STOPPING = 15


class ServiceError(RuntimeError):
    """A service did not come up; the message ends with its own log."""


def run_module(module: str, settings: str, env: Mapping[str, str], text: str) -> None:
    """Runs a module to its end under a service's settings; ServiceError unless it succeeds."""
    done = subprocess.run(  # noqa: S603 - our own modules
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=os.environ | env | {"DJANGO_SETTINGS_MODULE": settings},
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceError(f"{module} failed under {settings}:\n{tail(done.stderr)}")


class Process(ABC):
    """One process of a service, and those below it. A context manager that starts and ends it."""

    def __init__(self, name: str, settings: str, log: Path) -> None:
        self.name = name
        self.settings = settings
        self.env: dict[str, str] = {}
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._wait()

    @property
    def running(self) -> bool:
        """Whether it is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id; ServiceError where it was never started."""
        if self._process is None:
            raise ServiceError(f"{self.name} was not started")
        return self._process.pid

    def check(self) -> None:
        """ServiceError, with its own last words, where it has ended by itself."""
        if not self.running:
            raise ServiceError(f"{self.name} has ended:\n{tail(self.log.read_text())}")

    def start(self) -> None:
        """Starts it, and does not wait until it is up. One that was killed may start again."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own modules
                [sys.executable, "-m", *self._command()],
                cwd=ROOT,
                env=os.environ | self.env | {"DJANGO_SETTINGS_MODULE": self.settings},
                stdin=subprocess.PIPE,  # its end tells the process that we are gone
                stdout=log,
                stderr=log,
                pass_fds=self._descriptors(),
                start_new_session=True,  # Ctrl-C is for us, who end the processes in order
            )

    def stop(self) -> None:
        """Asks it to end, and does not wait for that."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL it and all below it."""
        if self._process is not None:
            kill_tree(self._process.pid)
            self._wait()

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """A module to run, and its arguments."""

    def _descriptors(self) -> Sequence[int]:
        """What it inherits, beside the standard three."""
        return ()

    def _wait(self) -> None:
        if self._process is None:
            return
        with self._process:
            try:
                self._process.wait(STOPPING)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)


def tail(log: str) -> str:
    """Its last lines."""
    return "\n".join(log.splitlines()[-20:])
