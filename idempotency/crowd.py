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


class _Places:
    """How many requests of this process wait."""

    def __init__(self) -> None:
        self._taken = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        with self._lock:
            if self._taken >= conf.IDEMPOTENCY_MAX_WAITERS:
                return False
            self._taken += 1
            return True

    def give_back(self) -> None:
        with self._lock:
            self._taken -= 1


_places = _Places()


class Waiter:
    """One request's wait: whether there is room for it, until when, and at what pace.

    A context manager: leaving it gives the place back.
    """

    def __init__(self, limit: float) -> None:
        self._deadline = time.monotonic() + limit
        self._pause = FIRST_PAUSE
        self._placed = False
        #: Whether this request has waited at all.
        self.waited = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Gives the place back: the wait is over, whatever comes."""
        if self._placed:
            self._placed = False
            _places.give_back()

    def may_wait(self) -> bool:
        """Takes a place in the crowd, once. False where it is full or the time is up."""
        if time.monotonic() >= self._deadline:
            return False
        self._placed = self._placed or _places.take()
        self.waited = self.waited or self._placed
        return self._placed

    def slice(self) -> float:
        """Seconds to the next look at the ledger, within the deadline."""
        return max(0.0, min(LOOK_EVERY, self._deadline - time.monotonic()))

    def pause(self) -> None:
        """Sleep, each time a little longer, so that a crowd does not ask in step."""
        length = self._pause * random.uniform(0.75, 1.0)
        time.sleep(max(0.0, min(length, self._deadline - time.monotonic())))
        self._pause = min(self._pause * GROWTH, LOOK_EVERY)
