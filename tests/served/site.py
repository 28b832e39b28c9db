"""The served project as its clients see it, and what happens to its processes."""

import os
import signal
from contextlib import contextmanager

import psutil
import requests

from tests.concurrent import PATIENCE, Crew, until
from tests.served import gunicorn


class Site:
    """The served project, as clients see it; each request comes by a connection of its own."""

    def __init__(self, origin, crew):
        self._origin = origin
        self._crew = crew

    def get(self, path):
        """The body of what is found there."""
        return requests.get(f"{self._origin}{path}", timeout=PATIENCE).text

    def post(self, path, key="k-1", **body):
        return requests.post(
            f"{self._origin}{path}",
            json={"name": "Ada"} | body,
            headers={"Idempotency-Key": key, "Connection": "close"},
            timeout=PATIENCE,
        )

    def counts(self):
        """What one of the processes has counted; the only one, where there is one."""
        return requests.get(f"{self._origin}/bookings/", timeout=PATIENCE).json()["counts"]

    def begin(self, path, **body):
        """A request beside the test: its future, whose response may never come."""
        return self._crew.start(self.post, path, **body)


@contextmanager
def served(tmp_path, *arguments, environment=None, clients=32):
    """Two worker processes, unless the arguments say otherwise; so many requests at once."""
    tmp_path.mkdir(exist_ok=True)
    log = tmp_path / "server.log"
    with (
        Crew(clients) as crew,
        gunicorn(log, *arguments, workers=2, environment=environment or {}) as origin,
    ):
        yield Site(origin, crew)


@contextmanager
def suspended(pid):
    """The process stands still within the block, as on a host that was paused or starved."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pid))
