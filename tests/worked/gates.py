"""Named points at which a task or a handler stops until the test lets it go on.

The code under test says `stop_at("effects")`, in whatever process it runs. The test says

    gates.close("effects")                # the next comer will stop
    worker.kill_child(gates.reached("effects"))

Files carry it, so that it works over a broken broker, a stopped server and a wrong clock.
"""

import os
import time
from pathlib import Path

from tests.concurrent import PATIENCE

#: Names the gates' directory in the processes that a test starts.
VARIABLE = "TEST_GATES"
#: Seconds between two looks.
PAUSE = 0.01
#: Seconds after which a stop is a test's mistake, or a failed test's remains.
LONGEST = 60


def stop_at(name: str) -> None:
    """Wait while the test holds this gate closed to us; without a test, go on at once.

    TimeoutError after a minute.
    """
    directory = os.environ.get(VARIABLE)
    held = None if directory is None else _stop(Path(directory, name))
    deadline = time.monotonic() + LONGEST
    while held is not None and held.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody opened the gate {name!r}")
        time.sleep(PAUSE)


def _stop(gate: Path) -> Path | None:
    """The file that says we stand here; None where nobody is to stop (any more)."""
    for place in gate.glob("free-*"):
        held = gate / f"{os.getpid()}-{place.name}"
        try:
            place.rename(held)  # one comer only can do it
        except FileNotFoundError:
            continue
        return held
    return None


class Gates:
    """The test's side of the gates; each is open until it is closed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reported: set[Path] = set()

    def close(self, name: str, comers: int = 1) -> None:
        """Stop the next `comers` at this gate; later ones pass, as if it were open."""
        gate = self._directory / name
        gate.mkdir(parents=True, exist_ok=True)
        for _ in range(comers):
            (gate / f"free-{time.monotonic_ns()}").touch()

    def reached(self, name: str) -> int:
        """Wait until a comer has stopped here that no earlier call told of; its process id."""
        deadline = time.monotonic() + PATIENCE
        while not (new := self._held(name) - self._reported):
            assert time.monotonic() < deadline, f"nobody reached {name!r}"
            time.sleep(PAUSE)
        first = min(new, key=lambda held: held.stat().st_ctime_ns)
        self._reported.add(first)
        return int(first.name.partition("-")[0])

    def open(self, name: str) -> None:
        """Let go on who stopped here, and stop nobody any more."""
        for file in (self._directory / name).glob("*-*"):
            file.unlink(missing_ok=True)

    def open_all(self) -> None:
        """Open every gate."""
        for gate in self._directory.glob("*"):
            self.open(gate.name)

    def _held(self, name: str) -> set[Path]:
        gate = self._directory / name
        # One look: between two, a place that was free may have been taken.
        return {file for file in gate.glob("*-*") if not file.name.startswith("free-")}
