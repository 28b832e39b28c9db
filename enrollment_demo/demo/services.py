"""The services as real processes: gunicorn on a loopback port, one process each."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self

from enrollment_demo.demo.relay import LOOPBACK

#: Where the packages `settings` and `enrollment_demo` lie.
ROOT = Path(__file__).resolve().parent.parent.parent
#: Seconds for a service to come up. Generous: a loaded CI machine, never the normal case.
DEADLINE = 60.0
#: Seconds for one to go down: more than gunicorn gives its requests.
STOPPING = 15
#: Seconds between two looks.
PAUSE = 0.05


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
        raise ServiceError(f"{module} failed under {settings}:\n{_tail(done.stderr)}")


class Service:
    """One server process of a service. A context manager that starts it and ends it.

    The port is taken when the object is made, so that services can be told of each other.
    """

    def __init__(self, name: str, settings: str, log: Path) -> None:
        self.name = name
        self.settings = settings
        self.env: dict[str, str] = {}
        self._log = log
        self._socket = socket.create_server((LOOPBACK, 0), backlog=512)
        self.port: int = self._socket.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The service's origin."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            log: IO[bytes] = stack.enter_context(self._log.open("ab"))
            self._process = subprocess.Popen(  # noqa: S603 - gunicorn, on our own module
                [
                    *(sys.executable, "-m", "gunicorn", "enrollment_demo.wsgi"),
                    *("--config", "python:enrollment_demo.demo.gunicorn_conf"),
                    *("--bind", f"fd://{self._socket.fileno()}"),
                ],
                cwd=ROOT,
                env=os.environ | self.env | {"DJANGO_SETTINGS_MODULE": self.settings},
                stdin=subprocess.PIPE,  # its end tells the service that we are gone
                stdout=log,
                stderr=log,
                pass_fds=[self._socket.fileno()],
                start_new_session=True,  # Ctrl-C is for us, who end the service in order
            )
        self._socket.close()  # a service that died refuses connections, instead of keeping them
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        if self._process is None:
            return
        with self._process:
            self.stop()
            try:
                self._process.wait(STOPPING)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Asks the process to end, and does not wait for it."""
        if self._process is not None:
            self._process.terminate()

    def wait_until_ready(self, path: str, headers: Mapping[str, str]) -> None:
        """Returns once `GET path` answers 200; ServiceError when it exits, or after a minute."""
        deadline = time.monotonic() + DEADLINE
        while self.running and time.monotonic() < deadline:
            if self._answers(path, headers):
                return
            time.sleep(PAUSE)
        raise ServiceError(f"{self.name} did not come up:\n{_tail(self._log.read_text())}")

    def _answers(self, path: str, headers: Mapping[str, str]) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=5)
        try:
            connection.request("GET", path, headers={"Connection": "close", **headers})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _tail(log: str) -> str:
    return "\n".join(log.splitlines()[-20:])
