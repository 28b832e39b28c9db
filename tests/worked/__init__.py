"""Celery workers for the tests: real prefork processes, consuming from a real broker.

The fixtures (tests.worked.fixtures) say by the environment which broker, queue and gates the test
uses; workers and web servers that are started within inherit it.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import psutil

from tests.concurrent import until
from tests.served import DEADLINE, database_url

#: Seconds after which Redis hands an unacknowledged message to somebody else. An hour, as without
#: this setting: only a test that kills a whole worker wants less.
VISIBILITY_TIMEOUT = 3600.0


class Worker:
    """A worker's processes: the parent, which speaks to the broker, and its pool of children."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.pid = process.pid
        self.log = log
        self._process = process

    def pids(self) -> list[int]:
        """The children that live now; the parent replaces one that died."""
        return [pid for pid in self._living() if pid != self.pid]

    def kill(self) -> None:
        """SIGKILL to parent and children; returns when all are gone.

        RabbitMQ then redelivers at once what they had not acknowledged, Redis after the visibility
        timeout.
        """
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        until(lambda: not self._living())

    def kill_child(self, pid: int | None = None) -> None:
        """SIGKILL to one child, by default the only one; returns when it is gone."""
        if pid is None:
            (pid,) = self.pids()
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in self._living())

    def suspend(self, pid: int | None = None) -> None:
        """SIGSTOP to one child, by default to all processes; returns when they have stopped.

        A stopped parent may still be handed a message: by RabbitMQ up to its prefetch count, by
        Redis one for the read that was already waiting.
        """
        self._send(signal.SIGSTOP, pid)
        waiting = [pid] if pid else self._living()
        until(lambda: all(map(_stopped, waiting)))

    def resume(self, pid: int | None = None) -> None:
        """SIGCONT to one child, by default to all processes."""
        self._send(signal.SIGCONT, pid)

    def warm(self) -> None:
        """SIGTERM to the parent: it takes no more messages, and ends when its tasks have ended."""
        os.kill(self.pid, signal.SIGTERM)

    def cold(self) -> None:
        """SIGQUIT to the parent: it stops its tasks, gives their messages back, and ends."""
        os.kill(self.pid, signal.SIGQUIT)

    def wait(self) -> int:
        """The parent's exit status, once it has ended; TimeoutExpired after a minute."""
        return self._process.wait(DEADLINE)

    def _send(self, number: signal.Signals, pid: int | None) -> None:
        if pid is None:
            os.killpg(self.pid, number)
        else:
            os.kill(pid, number)

    def _living(self) -> list[int]:
        return [process.pid for process in psutil.process_iter() if _lives_in(self.pid, process)]


@contextmanager
def worker(
    log: Path,
    *arguments: str,
    concurrency: int = 2,
    queues: Sequence[str] = (),
    visibility_timeout: float = VISIBILITY_TIMEOUT,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Worker]:
    """A worker of `tests.worked` on the test database that takes messages when the block begins.

    It serves the test's queue, or `queues`; further `arguments` are those of `celery worker`. At
    the end of the block its processes are killed; what they said is added to `log`, and to an
    error that leaves the block.
    """
    ready = log.with_name(f"{log.name}.ready")
    ready.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "celery", "--app", "tests.worked", "worker"),
        *("--pool", "prefork", "--concurrency", str(concurrency), "--loglevel", "INFO"),
        *("--hostname", f"{uuid.uuid4()}@tests"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        *(("--queues", ",".join(queues)) if queues else ()),
        *arguments,
    ]
    settled = {
        "DATABASE_URL": database_url(),
        # The settings of the web processes: a worker is the same project.
        "DJANGO_SETTINGS_MODULE": "tests.served.settings",
        "WORKER_READY": str(ready),
        "WORKER_VISIBILITY_TIMEOUT": str(visibility_timeout),
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **settled, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group that can be signalled as a whole
        )
    handle = Worker(process, log)
    try:
        deadline = time.monotonic() + DEADLINE
        while not ready.exists():
            assert process.poll() is None, "the worker ended before it was ready"
            assert time.monotonic() < deadline, "the worker did not become ready"
            time.sleep(0.05)
        yield handle
    except BaseException as error:
        error.add_note(f"{log.name}:\n{log.read_text(errors='replace')}")
        raise
    finally:
        handle.kill()


def _lives_in(group: int, process: psutil.Process) -> bool:
    """Whether a process of this group holds anything; a zombie, which waits for init, does not."""
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def _stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED
