"""The services as real processes: gunicorn on a loopback port, and Celery's worker and beat."""

import http.client
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from enrollment_demo.demo.processes import Process, ServiceError, tail
from enrollment_demo.demo.relay import LOOPBACK

#: Seconds for a service to come up. Generous: a loaded CI machine, never the normal case.
DEADLINE = 60.0
#: Seconds between two looks.
PAUSE = 0.05


#: Requests as JSON lines, with their sizes: what an audit of access logs can tell apart.
ACCESS_FORMAT = (
    '{"time": "%(t)s", "remote_addr": "%(h)s", "user_agent": "%(a)s", "request": "%(r)s",'
    ' "content_length": "%({content-length}i)s", "status": "%(s)s", "bytes": "%(b)s"}'
)


class Service(Process):
    """One server process of a service.

    The port is taken when the object is made, so that services can be told of each other.
    """

    def __init__(self, name: str, settings: str, log: Path) -> None:
        super().__init__(name, settings, log)
        #: Where its requests are logged, as `ACCESS_FORMAT` says; set before the start.
        self.access_log: Path | None = None
        self._socket = socket.create_server((LOOPBACK, 0), backlog=512)
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """The service's origin."""
        return f"http://{LOOPBACK}:{self.port}"

    def __exit__(self, *exception: object) -> None:
        self._socket.close()
        super().__exit__(*exception)

    def start(self) -> None:
        """Starts it, once: the port is its own from then on."""
        super().start()
        self._socket.close()  # a service that died refuses connections, instead of keeping them

    def wait_until_ready(self, path: str, headers: Mapping[str, str]) -> None:
        """Returns once `GET path` answers 200; ServiceError when it exits, or after a minute."""
        deadline = time.monotonic() + DEADLINE
        while self.running and time.monotonic() < deadline:
            if self._answers(path, headers):
                return
            time.sleep(PAUSE)
        raise ServiceError(f"{self.name} did not come up:\n{tail(self.log.read_text())}")

    def _command(self) -> Sequence[str]:
        return [
            *("gunicorn", "enrollment_demo.wsgi"),
            *("--config", "python:enrollment_demo.demo.gunicorn_conf"),
            *("--bind", f"fd://{self._socket.fileno()}"),
            *self._access(),
        ]

    def _access(self) -> Sequence[str]:
        if self.access_log is None:
            return ()
        return "--access-logfile", str(self.access_log), "--access-logformat", ACCESS_FORMAT

    def _descriptors(self) -> Sequence[int]:
        return [self._socket.fileno()]

    def _answers(self, path: str, headers: Mapping[str, str]) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=5)
        try:
            connection.request("GET", path, headers={"Connection": "close", **headers})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Worker(Process):
    """A Celery worker of the enrollment service, with two prefork children."""

    def start(self) -> None:
        """Starts it. Asked to end, it will not wait for the import in hand."""
        self.env |= {"REMAP_SIGTERM": "SIGQUIT"}
        super().start()

    def _command(self) -> Sequence[str]:
        return [
            *("celery", "-A", "enrollment_demo.demo.celery_app", "worker"),
            *("--concurrency", "2", "--loglevel", "INFO"),
            # One worker, and nobody looks on: there is no one to meet and greet.
            *("--without-mingle", "--without-gossip", "--without-heartbeat"),
        ]


class Beat(Process):
    """Celery's beat: it has the worker sweep and purge."""

    def _command(self) -> Sequence[str]:
        return [
            *("celery", "-A", "enrollment_demo.demo.celery_app", "beat"),
            *("--schedule", str(self.log.with_suffix(".schedule"))),
        ]
