"""The heartbeat: renews a lease while its owner works, on a connection of its own.

A thread beside the handler; it ends with it. What it finds lost, the owner is told when it asks.
"""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

logger: Final = logging.getLogger("idempotency")

#: Renewals in the time of a lease: two may fail before it ends.
BEATS: Final = 3
#: Seconds between two writes of a job's progress: a page that shows it live asks about as often.
PROGRESS_EVERY: Final = 1.0
#: Seconds to wait for the thread at the end; it only outlasts a database that hangs.
JOIN: Final = 5.0
#: What stack dumps and debuggers call the thread.
THREAD_NAME: Final = "idempotency-lease"


class Heartbeat:
    """Renews a lease each third of it, while the block runs.

    `renew` gives False where the lease is lost. Both it and what `report` is given run in the
    thread, with its own database connection on `using`.
    """

    def __init__(self, renew: Callable[[], bool], lease: float, *, using: str) -> None:
        self._renew = renew
        self._lease = lease
        self._using = using
        self._changed = threading.Condition()
        self._ended = False
        self._report: Callable[[], None] | None = None
        self._reported = -PROGRESS_EVERY
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        #: Whether the lease is known to be lost.
        self.lost = False

    def __enter__(self) -> Self:
        self._beat = time.monotonic() + self._lease / BEATS
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(JOIN)

    def report(self, write: Callable[[], None]) -> None:
        """Have progress written soon; of several reports in a short time, the last."""
        with self._changed:
            self._report = write
            self._changed.notify()

    def _run(self) -> None:
        connections[self._using] = _outside_the_pool(self._using)
        try:
            while (report := self._pause()) is not _END:
                try:
                    self._act(report)
                except Exception as error:  # noqa: BLE001 - a beat that fails is not the last one
                    logger.warning("idempotency heartbeat failed: %s", type(error).__name__)
                    connections[self._using].close()
        finally:
            connections[self._using].close()

    def _pause(self) -> "Callable[[], None] | None":
        """Until there is something to do: the report to write, if it is time for one."""
        with self._changed:
            while not self._ended and not self.lost:
                now = time.monotonic()
                due = self._beat
                if self._report is not None:
                    due = min(due, self._reported + PROGRESS_EVERY)
                if due <= now:
                    if self._report is None or self._reported + PROGRESS_EVERY > now:
                        return None
                    report, self._report, self._reported = self._report, None, now
                    return report
                self._changed.wait(due - now)
        return _END

    def _act(self, report: Callable[[], None] | None) -> None:
        now = time.monotonic()
        if now >= self._beat:
            # Set first, so that a database that answers no more is asked at the same pace.
            self._beat = now + self._lease / BEATS
            self.lost = not self._renew()
            if self.lost:
                return
        if report is not None:
            report()


def _outside_the_pool(using: str) -> BaseDatabaseWrapper:
    """A connection of our own: handlers that have taken all of a pool's wait for their beats."""
    wrapper = connections.create_connection(using)
    given = wrapper.settings_dict["OPTIONS"]
    options = {name: value for name, value in given.items() if name != "pool"}
    wrapper.settings_dict = wrapper.settings_dict | {"OPTIONS": options}
    return wrapper


def _END() -> None:  # noqa: N802 - a mark, compared by identity
    """Nothing more to do."""
