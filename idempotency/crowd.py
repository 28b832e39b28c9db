"""The crowd of waiting duplicates: bounded a process, each with a deadline."""

import random
import threading
import time
from types import TracebackType
from typing import Self

from idempotency.conf import conf

#: Seconds between two looks of a waiter at the ledger: a killed leader's key recovers below one.
LOOK_EVERY = 0.25
#: Seconds of the first pause where only the ledger can be asked; it grows to LOOK_EVERY.
FIRST_PAUSE = 0.005
#: Each pause is so much longer: eight looks in the first half second, then LOOK_EVERY.
GROWTH = 1.6

_waiting = 0
_lock = threading.Lock()


class Waiter:
    """One request's wait: whether there is room for it, until when, and at what pace.

    A context manager: leaving it gives the place back.
    """

    def __init__(self, limit: float) -> None:
        self._deadline = time.monotonic() + limit
        self._pause = FIRST_PAUSE
        self._placed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _waiting
        if self._placed:
            with _lock:
                _waiting -= 1

    @property
    def waited(self) -> bool:
        """Whether this request has waited at all."""
        return self._placed

    def may_wait(self) -> bool:
        """Takes a place in the crowd, once. False where it is full or the time is up."""
        global _waiting
        if time.monotonic() >= self._deadline:
            return False
        if not self._placed:
            with _lock:
                if _waiting >= conf.IDEMPOTENCY_MAX_WAITERS:
                    return False
                _waiting += 1
            self._placed = True
        return True

    def slice(self) -> float:
        """Seconds to the next look at the ledger, within the deadline."""
        return max(0.0, min(LOOK_EVERY, self._deadline - time.monotonic()))

    def pause(self) -> None:
        """Sleep, each time a little longer, so that a crowd does not ask in step."""
        length = self._pause * random.uniform(0.75, 1.0)  # noqa: S311 - spreads load, no secret
        time.sleep(max(0.0, min(length, self._deadline - time.monotonic())))
        self._pause = min(self._pause * GROWTH, LOOK_EVERY)
