"""A circuit breaker: after a few failures in a row the rooms step aside for some seconds."""

import threading
import time
from collections.abc import Callable

#: Three: one is a hiccup, two a coincidence; each costs a request one time-out.
FAILURES = 3
#: Seconds the rooms stand aside before one request looks again.
PAUSE = 5.0


class Breaker:
    """Closed, open, or open with one probe under way. Safe for threads; one a server."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._closed_again = 0.0

    def allows(self) -> bool:
        """Whether to ask the server. While open, true once a pause: for the one that probes."""
        if self._failures < FAILURES:  # read without the lock: the common case
            return True
        with self._lock:
            if self._failures < FAILURES:
                return True
            now = self._clock()
            if now < self._closed_again:
                return False
            self._closed_again = now + PAUSE
            return True

    def succeeded(self) -> None:
        """The server answered."""
        if self._failures:
            with self._lock:
                self._failures = 0

    def failed(self) -> bool:
        """The server did not answer. True where this failure opened the breaker."""
        with self._lock:
            self._failures += 1
            if self._failures >= FAILURES:
                self._closed_again = self._clock() + PAUSE
            return self._failures == FAILURES
