"""What happened: one function reports it; the counts, the log and the signal hang on it."""

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from django.dispatch import Signal

logger: Final = logging.getLogger("idempotency")

#: Sent with `event`, an Event, after each outcome. Receivers run in the request: keep them short.
recorded: Final = Signal(use_caching=True)


@dataclass(frozen=True, slots=True)
class Event:
    """One outcome. `digest` stands for scope and key, which appear in no log."""

    name: str
    operation: str = ""
    #: What answered, or why: "cache", "ledger", a refusal's code, an exception's class.
    detail: str = ""
    digest: str = ""
    #: Seconds from the request's first look at its key.
    duration: float = 0.0


EXECUTED: Final = "executed"
FAILED: Final = "failed"
REPLAYED: Final = "replayed"
WAITED: Final = "waited"
REFUSED: Final = "refused"
CONSTRAINT_CAUGHT: Final = "constraint_caught"
ROLLED_BACK: Final = "rolled_back"
CACHE_UNAVAILABLE: Final = "cache_unavailable"
LEASE_LOST: Final = "lease_lost"
OBSERVED: Final = "observed"
ATTACHED: Final = "attached"
TAKEN_OVER: Final = "taken_over"
ABANDONED: Final = "abandoned"
OUTCOME_UNKNOWN: Final = "outcome_unknown"
SETTLED: Final = "settled"
STEP_DONE: Final = "step_done"
STEP_SKIPPED: Final = "step_skipped"
JOB_QUEUED: Final = "job_queued"
JOB_UNSENT: Final = "job_unsent"
JOB_RESENT: Final = "job_resent"
JOB_STARTED: Final = "job_started"
JOB_IGNORED: Final = "job_ignored"
JOB_HANDED_BACK: Final = "job_handed_back"
JOB_ENDED: Final = "job_ended"
UNREADABLE: Final = "unreadable"

#: What a request under a key or a job comes to: the last of these that is recorded.
OUTCOMES: Final = frozenset(
    {
        EXECUTED,
        FAILED,
        REPLAYED,
        REFUSED,
        ROLLED_BACK,
        OBSERVED,
        ATTACHED,
        OUTCOME_UNKNOWN,
        JOB_QUEUED,
        JOB_ENDED,
    }
)

#: Details of OBSERVED where a request has no key: its like was not met within the window, or it
#: was, or nobody can tell.
NEW_FINGERPRINT: Final = "executed_by_fingerprint"
KNOWN_FINGERPRINT: Final = "replayed_by_fingerprint"
UNKNOWN_FINGERPRINT: Final = "unknown_by_fingerprint"

_LEVELS: Final = {
    CONSTRAINT_CAUGHT: logging.WARNING,  # the cache and the lock both missed it
    ROLLED_BACK: logging.WARNING,  # a success was answered for work that was undone
    CACHE_UNAVAILABLE: logging.WARNING,
    LEASE_LOST: logging.ERROR,
    ABANDONED: logging.WARNING,  # its owner died, or stood still past its lease
    OUTCOME_UNKNOWN: logging.ERROR,  # waits for an operator
    JOB_UNSENT: logging.WARNING,  # the sweep sends it again
    UNREADABLE: logging.ERROR,  # IDEMPOTENCY_ENCRYPTION_KEYS lacks the key it was written under
}

#: By event and detail.
_counts: Counter[tuple[str, str]] = Counter()
_counts_lock = threading.Lock()


def record(event: Event) -> None:
    """Count it, log it and send the signal. Raises nothing: a sink never fails a request."""
    with _counts_lock:
        _counts[event.name, event.detail] += 1
    level = _LEVELS.get(event.name, logging.INFO)
    if logger.isEnabledFor(level):
        logger.log(
            level,
            "idempotency %s %s %s",
            event.name,
            event.operation,
            event.detail,
            extra={
                "idempotency_event": event.name,
                "idempotency_operation": event.operation,
                "idempotency_detail": event.detail,
                "idempotency_digest": event.digest,
                "idempotency_duration": event.duration,
            },
        )
    if recorded.receivers:
        recorded.send_robust(sender=Event, event=event)


class Reporter:
    """Reports what happens to one request, and when."""

    def __init__(self, operation: str, digest: str) -> None:
        self._operation = operation
        self._digest = digest
        self._started = time.monotonic()
        self._once: set[str] = set()

    def record(self, name: str, detail: str = "") -> None:
        """Report an event of this request."""
        duration = time.monotonic() - self._started
        record(Event(name, self._operation, detail, self._digest, duration))

    def record_once(self, name: str) -> None:
        """The same, but only the first time."""
        if name not in self._once:
            self._once.add(name)
            self.record(name)


def counts() -> dict[str, int]:
    """What this process has counted so far: by event, and by `event.detail`."""
    with _counts_lock:
        counted = dict(_counts)
    told: Counter[str] = Counter()
    for (name, detail), count in counted.items():
        told[name] += count
        if detail:
            told[f"{name}.{detail}"] += count
    return dict(told)
