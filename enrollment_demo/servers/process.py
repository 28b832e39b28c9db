"""What the embedded servers share: a directory, a port, an unprivileged user and a keeper."""

import atexit
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

import psutil

from enrollment_demo.servers import keeper

LOOPBACK = "127.0.0.1"
#: Seconds for a server to come up or go down. Generous: a loaded CI machine, never the normal case.
DEADLINE = 60
#: Seconds between two looks.
PAUSE = 0.02
#: Below the ports that systems give to outgoing connections: a client that retries against a
#: server that is down could otherwise be given the server's own port, and keep it.
PORTS = range(15000, 30000)


class ServerError(RuntimeError):
    """A server did not come up or go down; the message ends with the server's own log."""


class Server(ABC):
    """One server process: restartable on its port with its data, gone when its owner is gone.

    A context manager. `stop()` and `kill()` keep the data; leaving the context, or the end of the
    process that made the object, removes it.
    """

    #: Options that would move the server away from where we look for it, or off the loopback.
    reserved: ClassVar[frozenset[str]]

    def __init__(self, *, options: Mapping[str, str] | None = None) -> None:
        """`options` are the server's own settings; ValueError for one that is not free."""
        self.options = dict(options or {})
        if refused := self.reserved.intersection(self.options):
            raise ValueError(f"not open to options: {', '.join(sorted(refused))}")
        self.port = _free_port()
        #: Of the server while it runs, else of the last one; 0 before the first start.
        self.pid = 0
        self._owner = os.getpid()
        self._account = _account()
        self._directory: Path | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether there is a server process, paused or not."""
        return self._keeper is not None and self._keeper.poll() is None

    def start(self) -> None:
        """Start the server, return once it answers; ServerError after a minute or if it exits."""
        if self.running:
            raise ServerError(f"{type(self).__name__} on port {self.port} already runs")
        if self._directory is None:
            self._directory = self._make_directory()
            atexit.register(self.close)
            self._prepare(self._directory)
        self._launch(self._command(self._directory), self._directory)
        if not until(lambda: not self.running or self._answers()) or not self.running:
            self.kill()
            raise self._error("did not come up")

    def stop(self) -> None:
        """End the server in order; ServerError if it had to be killed after a minute."""
        if self.running:
            self._signal(signal.SIGINT)
            with suppress(ProcessLookupError):  # it may be gone already
                self._signal(signal.SIGCONT)  # a stopped process takes no other signal
            if not until(lambda: not self.running):
                self.kill()
                raise self._error("did not stop")
        self._forget_keeper()

    def kill(self) -> None:
        """SIGKILL the server and every process below it; returns when all of them are gone."""
        self._learn_pid()
        if self.running and self.pid:
            orphans = keeper.kill_tree(self.pid)
            if not until(lambda: not self.running and not any(map(_lives, orphans))):
                raise self._error("did not die")
        self._forget_keeper()

    def close(self) -> None:
        """Stop the server and remove its data."""
        if os.getpid() != self._owner:  # a forked child runs our atexit too, and owns nothing
            return
        atexit.unregister(self.close)
        try:
            self.stop()
        finally:
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = None

    @abstractmethod
    def _prepare(self, directory: Path) -> None:
        """Make the empty directory ready for the first start."""

    @abstractmethod
    def _command(self, directory: Path) -> Sequence[str]:
        """The server's command line; it must stay in the foreground."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether this server, and not another one on its port, serves requests."""

    def _readable(self, package: Path, part: str, directory: Path) -> Path:
        """The folder `part` of a package, or a copy of it where the server's user may not go."""
        if os.geteuid() != 0 or _open_to_all(package / part):
            return package / part
        site, copy = package.parent, directory / "programs"
        if not copy.exists():
            for folder in (f"{package.name}/{part}", f"{package.name}.libs"):  # found by place
                if (site / folder).is_dir():
                    shutil.copytree(site / folder, copy / folder, symlinks=True)
            for path in (copy, *copy.rglob("*")):
                os.chown(path, *self._account, follow_symlinks=False)
        return copy / package.name / part

    def _run(self, command: Sequence[str], directory: Path) -> None:
        """Run a command that ends by itself, as the server's user; ServerError if it fails."""
        self._launch(command, directory)
        if not until(lambda: not self.running):
            self.kill()
        if self._keeper is None or self._keeper.returncode != 0:
            raise self._error(f"{Path(command[0]).name} failed")
        self._forget_keeper()

    def _launch(self, command: Sequence[str], directory: Path) -> None:
        self._forget_keeper()
        self.pid = 0
        with (directory / "log").open("ab") as log:
            self._keeper = subprocess.Popen(
                [
                    *(sys.executable, "-P", keeper.__file__, str(self._owner), str(directory)),
                    *map(str, self._account),
                    *command,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the owner, who ends the server in order
            )
        self._learn_pid()
        if not self.pid:
            self._keeper.wait()
            raise self._error(f"{command[0]} could not be executed")

    def _learn_pid(self) -> None:
        """Read what the keeper says first; an interrupt may have come before we did."""
        if not self.pid and self._keeper is not None and self._keeper.stdout is not None:
            self.pid = int(self._keeper.stdout.readline() or 0)

    def _forget_keeper(self) -> None:
        """Close the pipe of a keeper that has ended."""
        if self._keeper is not None:
            with self._keeper:
                self._keeper = None

    def _signal(self, number: signal.Signals) -> None:
        self._learn_pid()
        if self.running and self.pid:  # 0 would be our own process group
            os.kill(self.pid, number)

    def _error(self, what: str) -> ServerError:
        tail: list[str] = []
        if self._directory is not None:
            tail = (self._directory / "log").read_text(errors="replace").splitlines()[-20:]
        return ServerError("\n".join([f"{type(self).__name__} on port {self.port} {what}", *tail]))

    def _make_directory(self) -> Path:
        base = Path(tempfile.gettempdir())
        if os.geteuid() == 0 and not _open_to_all(base):
            base = Path("/tmp")  # noqa: S108 - mkdtemp makes a private directory in it
        directory = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-", dir=base))
        os.chown(directory, *self._account)
        return directory


def package_directory(name: str) -> Path:
    """Where an installed package lies, found without running any of it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(f"the package {name}, which ships the server, is not installed")
    return Path(spec.submodule_search_locations[0])


def _account() -> tuple[int, int]:
    """User and group to run as: PostgreSQL refuses root, and Redis needs no more either."""
    if os.geteuid() != 0:
        return os.getuid(), os.getgid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _open_to_all(directory: Path) -> bool:
    """Whether any user may enter `directory`, from the root down."""
    real = directory.resolve()
    return all(step.stat().st_mode & stat.S_IXOTH for step in (real, *real.parents))


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def until(condition: Callable[[], bool]) -> bool:
    """Poll until `condition` holds; False if it does not within the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def _lives(process: psutil.Process) -> bool:
    """Whether a process still holds anything; a zombie, which may never be reaped, does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
