"""Prometheus: what happens, as metrics. Switches itself on where prometheus_client is installed.

============================  =========  ===========================  ===========================
idempotency_events_total      counter    operation, event, detail     see `DETAILS`
idempotency_duration_seconds  histogram  operation, outcome           from the first look at a key
idempotency_in_flight         gauge      operation                    executions that run now
idempotency_table_rows        gauge      database, table              about
idempotency_table_bytes       gauge      database, table              with indexes; not on SQLite
============================  =========  ===========================  ===========================

No label is taken from a client: operations are the project's own, events and details are those of
`DETAILS`. The tables are asked about at the scrape, by `storage`, a collector: where several
processes share PROMETHEUS_MULTIPROC_DIR, register it beside the MultiProcessCollector.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from django.db import DatabaseError, InterfaceError, connections, router
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from idempotency import events, exceptions
from idempotency.current import executing
from idempotency.events import Event
from idempotency.layers.storage import Table, measure

logger: Final = logging.getLogger("idempotency")

#: What stands for an operation, an event or a detail that is not known here.
OTHER: Final = "other"
#: What stands for the class of an exception.
EXCEPTION: Final = "exception"
#: Operations that are told apart: a project that makes up names must not size the server's memory.
MAX_OPERATIONS: Final = 500
#: Seconds. A replay takes one or two milliseconds, a waiter ten seconds at most by default.
BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
#: Seconds between two looks at the tables, however often and by whom we are scraped.
LOOK_EVERY: Final = 30.0

_REFUSALS: Final = frozenset(
    kind.default_code
    for kind in (
        exceptions.KeyRequired,
        exceptions.KeyInvalid,
        exceptions.KeyReused,
        exceptions.InProgress,
        exceptions.KeyExpired,
        exceptions.ReplyNotKept,
        exceptions.Unavailable,
        exceptions.OutcomeUnknown,
    )
)
_NONE: Final = frozenset({""})

#: The details that each event may have as a label. Statuses are told by their class, exceptions
#: are not told apart, and anything else is `OTHER`.
DETAILS: Final[Mapping[str, AbstractSet[str]]] = {
    events.EXECUTED: _NONE,
    events.FAILED: frozenset({EXCEPTION, "5xx"}),
    events.REPLAYED: frozenset({"cache", "ledger"}),
    events.WAITED: _NONE,
    events.REFUSED: _REFUSALS,
    events.CONSTRAINT_CAUGHT: _NONE,
    events.ROLLED_BACK: frozenset({"2xx", "3xx", "4xx"}),
    events.CACHE_UNAVAILABLE: frozenset(
        {"breaker_open", "TimeoutError", "ConnectionError", EXCEPTION}
    ),
    events.LEASE_LOST: _NONE,
    events.UNREADABLE: frozenset({"reply", "job", "step"}),
    events.OBSERVED: _REFUSALS
    | {
        events.EXECUTED,
        events.REPLAYED,
        events.ATTACHED,
        events.NEW_FINGERPRINT,
        events.KNOWN_FINGERPRINT,
        events.UNKNOWN_FINGERPRINT,
    },
    events.ATTACHED: _NONE,
    events.TAKEN_OVER: _NONE,
    events.ABANDONED: _NONE,
    events.OUTCOME_UNKNOWN: _NONE,
    events.SETTLED: frozenset({"happened", "never_happened", "released", "expired", "forgotten"}),
    events.STEP_DONE: _NONE,
    events.STEP_SKIPPED: _NONE,
    events.JOB_QUEUED: _NONE,
    events.JOB_UNSENT: _NONE,
    events.JOB_RESENT: _NONE,
    events.JOB_STARTED: _NONE,
    events.JOB_IGNORED: _NONE,
    events.JOB_HANDED_BACK: _NONE,
    events.JOB_ENDED: frozenset({"succeeded", "failed", "cancelled"}),
}

_total: Final = Counter(
    "idempotency_events",
    "What happened to requests, jobs and events under an idempotency key.",
    ["operation", "event", "detail"],
)
_seconds: Final = Histogram(
    "idempotency_duration_seconds",
    "Seconds from the first look at a key to what came of it.",
    ["operation", "outcome"],
    buckets=BUCKETS,
)
_in_flight: Final = Gauge(
    "idempotency_in_flight",
    "Executions under an idempotency key that run now.",
    ["operation"],
    multiprocess_mode="livesum",
)


@dataclass(frozen=True, slots=True)
class _Series:
    """Where events of one kind are counted."""

    total: Counter
    #: `None` where their duration says nothing.
    seconds: Histogram | None


#: By operation, event and detail as they come: finding the labels takes longer than counting.
_known: Final[dict[tuple[str, str, str], _Series]] = {}
_operations: Final[set[str]] = set()


def connect() -> None:
    """Switch it on."""
    events.recorded.connect(count, dispatch_uid="idempotency.prometheus")
    executing.connect(follow, dispatch_uid="idempotency.prometheus")


def count(event: Event, **_: Any) -> None:
    """Count an event; a receiver of `idempotency.events.recorded`."""
    kind = (event.operation, event.name, event.detail)
    series = _known.get(kind) or _made(*kind)
    series.total.inc()
    if series.seconds is not None and event.duration:  # a refused key is not timed
        series.seconds.observe(event.duration)


def follow(operation: str, change: int, **_: Any) -> None:
    """An execution has begun or ended; a receiver of `idempotency.current.executing`."""
    _in_flight.labels(_operation(operation)).inc(change)


def _made(operation: str, event: str, detail: str) -> _Series:
    name = event if event in DETAILS else OTHER
    told = _operation(operation)
    series = _Series(
        _total.labels(told, name, _detail(event, detail)),
        _seconds.labels(told, name) if name in events.OUTCOMES else None,
    )
    if told == operation and len(_known) < MAX_OPERATIONS * len(DETAILS):
        _known[operation, event, detail] = series
    return series


def _operation(name: str) -> str:
    if name in _operations or len(_operations) < MAX_OPERATIONS:
        _operations.add(name)
        return name
    return OTHER


def _detail(event: str, detail: str) -> str:
    known = DETAILS.get(event, _NONE)
    if len(detail) == 3 and detail.isdecimal():
        detail = f"{detail[0]}xx"
    if detail in known:
        return detail
    return EXCEPTION if EXCEPTION in known else OTHER


class StorageCollector(Collector):
    """Asks the databases how large the tables are, at most every `LOOK_EVERY` seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, tuple[Table, ...]] = {}
        self._next_look = 0.0

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The metrics without a sample: to register asks no database."""
        labels = ["database", "table"]
        return (
            GaugeMetricFamily("idempotency_table_rows", "Rows of a table, about.", labels=labels),
            GaugeMetricFamily(
                "idempotency_table_bytes", "Bytes of a table and its indexes.", labels=labels
            ),
        )

    def collect(self) -> Iterable[GaugeMetricFamily]:
        rows, size = self.describe()
        for alias, tables in self._look().items():
            for table in tables:
                if table.rows is not None:
                    rows.add_metric([alias, table.name], table.rows)
                if table.size is not None:
                    size.add_metric([alias, table.name], table.size)
        return rows, size

    def _look(self) -> dict[str, tuple[Table, ...]]:
        with self._lock:
            if time.monotonic() >= self._next_look:
                self._found = {alias: _tables(alias) for alias in connections if _has_them(alias)}
                self._next_look = time.monotonic() + LOOK_EVERY
            return self._found


def _has_them(alias: str) -> bool:
    """Whether the project's routers put the records there."""
    return router.allow_migrate(alias, "idempotency", model_name="idempotencyrecord")


def _tables(alias: str) -> tuple[Table, ...]:
    connection = connections[alias]
    ours = connection.connection is None  # a scrape may come in a thread that Django never sees
    try:
        return measure(using=alias).tables
    except (DatabaseError, InterfaceError) as error:
        logger.warning("idempotency tables of %s: %s", alias, type(error).__name__)
        return ()
    finally:
        if ours:
            connection.close()


storage: Final = StorageCollector()
REGISTRY.register(storage)
