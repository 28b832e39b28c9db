"""All figures at once: at most eight statements, whatever the window and the ledger's size."""

import time
from dataclasses import dataclass
from typing import Final

from django.utils import timezone

from idempotency.figures.traffic import GROUPS, Traffic, traffic
from idempotency.figures.window import Window
from idempotency.layers import census, counters, ledger, storage

#: Hours of the longest window: what is older has been purged.
LONGEST: Final = counters.KEPT_DAYS * 24
#: Scopes that are named.
SCOPES: Final = 10


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened within a window, and how things stand at its end."""

    window: Window
    traffic: Traffic
    unsettled: census.Unsettled
    newest: census.Newest
    storage: storage.Storage

    @property
    def bytes_a_day(self) -> float | None:
        """What the records grow by, before the purge; `None` where a record's size is unknown."""
        size = self.storage.bytes_a_record
        return None if size is None else self.traffic.records_an_hour * 24 * size

    @property
    def is_empty(self) -> bool:
        """Whether nothing was counted, and there is no record: nobody has used it yet."""
        return not self.traffic.events and not self.newest.records


def gather(hours: int, *, using: str | None = None) -> Figures:
    """The figures of the last so many hours, of the records in the given database or the router's.

    Raises ValueError where the hours are not between 1 and LONGEST; DatabaseError.
    """
    if not 1 <= hours <= LONGEST:
        raise ValueError(f"The hours must be between 1 and {LONGEST}, not {hours}.")
    using = ledger.alias(using)
    window = Window(hours, int(time.time() // 3600), timezone.get_current_timezone())
    return Figures(
        window,
        traffic(window, counters.by_hour(hours, GROUPS), counters.by_operation(hours)),
        census.unsettled(using=using),
        census.newest(SCOPES, using=using),
        storage.measure(using=using),
    )
