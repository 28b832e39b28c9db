"""What an operator takes away: the reply of a finished key, or all that is known of a key.

In the caller's transaction. Nothing that somebody is at work on is touched.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import F, Q

from idempotency.layers import leases
from idempotency.layers.clock import ServerNow
from idempotency.models import IdempotencyRecord, State

#: States in which nobody writes any more.
_LEFT: Final = (State.FINISHED, State.RELEASED, State.ABANDONED, State.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Discarded:
    """What was taken away."""

    operation: str
    #: Until when the reply would have been replayed, from a cache for instance; `None`: there was
    #: none, or it has expired.
    replayed_until: datetime | None


def expire(scope: str, key: str, attempt: int | None, *, using: str) -> Discarded | None:
    """Make a replayable record a tombstone, without its reply; `None` where it is none.

    `purge_at` stays, so late retries are refused for longer than a tombstone lasts.
    """
    found = leases.picked(scope, key, attempt, using=using)
    replayable = found.filter(state=State.FINISHED, expires_at__gt=ServerNow())
    record = replayable.only("operation", "expires_at").first()
    if record is None:
        return None
    IdempotencyRecord.objects.using(using).filter(pk=record.pk).update(
        attempt=F("attempt") + 1, expires_at=ServerNow(), headers="", body=None
    )
    return Discarded(record.operation, record.expires_at)


def forget(scope: str, key: str, attempt: int | None, *, using: str) -> Discarded | None:
    """Delete a record with its job and its steps; `None` where somebody is at work on it, or it is
    not there. A zombie that comes back finds no record, and writes nothing."""
    nobodys = Q(state__in=_LEFT) | Q(state=State.RUNNING, lease_until__lte=ServerNow())
    found = leases.picked(scope, key, attempt, using=using).filter(nobodys)
    record = found.only("operation", "expires_at").first()
    if record is None:
        return None
    discarded = Discarded(record.operation, record.expires_at)
    record.delete(using=using)
    return discarded
