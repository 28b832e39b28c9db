"""Which sinks hear of events while a case is measured: none, the counters, or all that are here."""

from collections.abc import Iterator
from contextlib import contextmanager

from idempotency import sinks
from idempotency.events import recorded

#: Uids of receivers, after `idempotency.`
Sinks = frozenset[str]
NONE: Sinks = frozenset()
#: What there always is.
COUNTERS: Sinks = frozenset({"counting"})
#: In a process whose spans record nothing, as most do where traces are sampled.
ALL: Sinks = frozenset({"counting", "prometheus", "opentelemetry"})


@contextmanager
def only(wanted: Sinks) -> Iterator[None]:
    """Take off all other sinks for a while."""
    for sink in ALL - wanted:
        recorded.disconnect(dispatch_uid=f"idempotency.{sink}")
    try:
        yield
    finally:
        sinks.connect()
