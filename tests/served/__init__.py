"""The test project behind gunicorn: real processes, real sockets."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests
from django.db import connection

#: Seconds for a worker to answer.
DEADLINE = 60


def database_url() -> str:
    """The URL of the test database, where DATABASE_URL names the one beside it."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    server, _, _ = os.environ["DATABASE_URL"].rpartition("/")
    return f"{server}/{name}"


@contextmanager
def gunicorn(
    log: Path, *arguments: str, workers: int = 4, environment: Mapping[str, str]
) -> Iterator[str]:
    """Serves `tests.served` on the test database; gives the origin, ends with the block."""
    with socket.socket() as listener:
        # Handed on, so that no other process can take the port in between.
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        command = [
            *(sys.executable, "-m", "gunicorn", "tests.served.wsgi"),
            *("--bind", f"fd://{listener.fileno()}", "--workers", str(workers)),
            *("--worker-class", "gthread", "--threads", "8", "--no-control-socket"),
            *arguments,
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env={**os.environ, "DATABASE_URL": database_url(), **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
            )
    try:
        deadline = time.monotonic() + DEADLINE
        origin = f"http://127.0.0.1:{port}"
        while not _answers(f"{origin}/bookings/"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield origin
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except (requests.ConnectionError, requests.Timeout):
        return False
