"""Counting in memory: a request adds to a dictionary, and a thread to the database by and by.

Nothing of it is on a request's way. A process that is killed loses what it has not added yet, at
most `EVERY` seconds of it; one that ends in order adds it first.
"""

import atexit
import logging
import os
import threading
import time
from collections import Counter
from typing import Any, Final

from django.core import mail
from django.db import connections

from idempotency.events import Event
from idempotency.layers import counters
from idempotency.layers.counters import Count, Kind
from idempotency.outcomes import Identity

logger: Final = logging.getLogger("idempotency")

#: Seconds from the first event to be added until it is.
EVERY: Final = 5.0
#: Kinds of events, and records that were replayed, between two additions: what comes beyond is
#: added to an unnamed operation, or not at all. A client must not size our memory.
MAX_KINDS, MAX_RECORDS = 2_000, 1_000
#: Characters of a detail; the longest of ours has half as many.
_LONGEST: Final = 64


#: Hour, operation, event, detail: a plain tuple, because a request makes one for each event.
_Key = tuple[int, str, str, str]


class _Tally:
    """What this process has counted and not yet added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By hour, operation, event and detail: how often, and the seconds together.
        self._counts: dict[_Key, tuple[int, float]] = {}
        self._replays: Counter[Identity] = Counter()
        self._timer: threading.Timer | None = None
        #: Held while it is being added: a process that ends waits for that.
        self._adding = threading.Lock()

    def count(self, key: _Key, seconds: float) -> None:
        with self._lock:
            self._put(key, 1, seconds)
            self._start()

    def replayed(self, identity: Identity) -> None:
        with self._lock:
            if identity in self._replays or len(self._replays) < MAX_RECORDS:
                self._replays[identity] += 1

    def flush(self) -> None:
        """Add it all; keep the counts where that fails."""
        with self._adding:
            self._add()

    def _add(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, {}
            replays, self._replays = self._replays, Counter()
        try:
            counters.add(_merged(counts))
        except Exception:
            with self._lock:
                for key, both in counts.items():
                    self._put(key, *both)
            raise
        counters.add_replays(replays.items())

    def _put(self, key: _Key, times: int, seconds: float) -> None:
        if key not in self._counts and len(self._counts) >= MAX_KINDS:
            key = (key[0], "", key[2], "")
        known = self._counts.get(key, (0, 0.0))
        self._counts[key] = (known[0] + times, known[1] + seconds)

    def _start(self) -> None:
        if self._timer is None:
            timer = threading.Timer(EVERY, self._run)
            timer.daemon = True
            timer.start()
            self._timer = timer  # not before: where no thread can start, the next one is tried

    def _run(self) -> None:
        try:
            with self._lock:
                self._timer = None  # what comes from now on has a timer of its own
            self.flush()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next one tries again
            logger.warning("idempotency counts are kept for later: %s", type(error).__name__)
            with self._lock:
                self._start()
        finally:
            connections.close_all()  # this thread's own


_tally = _Tally()


def count(event: Event, **_: Any) -> None:
    """Count an event; a receiver of `idempotency.events.recorded`."""
    if _is_counting():
        hour = int(time.time() // 3600)
        _tally.count((hour, event.operation, event.name, event.detail), event.duration)


def replayed(identity: Identity) -> None:
    """Count a replay of this record's reply."""
    if _is_counting():
        _tally.replayed(identity)


def flush() -> None:
    """Add to the database what this process has counted; keep it where that raises."""
    _tally.flush()


def _is_counting() -> bool:
    # Django's test environment: nobody expects a thread there that asks the database by itself.
    return "outbox" not in mail.__dict__  # hasattr() would raise inside, for each event


def end() -> None:
    """Add what there is, where the process ends in order."""
    try:
        flush()
    except Exception as error:  # noqa: BLE001 - the process ends, whatever it is
        logger.warning("idempotency counts are lost: %s", type(error).__name__)


def _in_child() -> None:
    global _tally  # noqa: PLW0603 - what the parent has counted is the parent's to add
    _tally = _Tally()


def _merged(counts: dict[_Key, tuple[int, float]]) -> list[Count]:
    """As the table takes it: details as short ASCII, and those that are one by then as one."""
    merged: dict[Kind, tuple[int, float]] = {}
    for (hour, operation, event, detail), (times, seconds) in counts.items():
        kind = Kind(hour, operation, event, _ascii(detail))
        known = merged.get(kind, (0, 0.0))
        merged[kind] = (known[0] + times, known[1] + seconds)
    return [Count(kind, *both) for kind, both in merged.items()]


def _ascii(detail: str) -> str:
    return detail.encode("ascii", "backslashreplace").decode()[:_LONGEST]


atexit.register(end)
os.register_at_fork(after_in_child=_in_child)
