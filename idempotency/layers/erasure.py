"""Erasure: what the ledger and the cache hold of one caller, whatever its age.

Not a purge: it deletes replies that would still be replayed, and a retry under an erased key runs
anew. What is not settled is left alone, because to delete it would let it run twice: running
executions, jobs that have not ended, outcomes that an operator has to settle.

The hourly counters hold operations, events and reasons only, so nothing of a person is in them.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from django.db import connections, transaction
from django.db.models import Count, Q, QuerySet

from idempotency.identity import scopes_of
from idempotency.layers import ledger, lock
from idempotency.layers.clock import ServerNow
from idempotency.models import IdempotencyRecord, State
from idempotency.outcomes import Identity

#: Records of one transaction, and names of one round trip to Redis: well within its time-out.
BATCH_SIZE: Final = 1_000
#: What nobody is at work on, or has to decide about.
SETTLED: Final = (State.FINISHED, State.RELEASED, State.ABANDONED)


@dataclass(frozen=True, slots=True)
class Found:
    """What there is under a scope."""

    #: Records that an erasure deletes.
    settled: int
    #: How many it leaves alone, by state.
    unsettled: Mapping[State, int]


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure has done so far."""

    deleted: int = 0
    batches: int = 0
    seconds: float = 0.0
    #: Seconds for which a reply may still come from a cache that did not drop it.
    served_for: float = 0.0
    #: What was there when the walk had come to its end; `None`: it has not.
    left: Found | None = None


@dataclass(frozen=True, slots=True)
class _Batch:
    identities: list[Identity] = field(default_factory=list)
    #: Seconds until the last of their replies would have expired.
    replayable_for: float = 0.0


def count(scope: str, *, using: str | None = None) -> Found:
    """What an erasure of this scope would delete, and leave alone. Raises ValueError."""
    alias = ledger.alias(using)
    states: Counter[State] = Counter()
    for first, last in scopes_of(scope):
        records = _between(first, last, alias).values_list("state")
        states.update({State(state): number for state, number in records.annotate(Count("id"))})
    settled = sum(states.pop(state, 0) for state in SETTLED)
    return Found(settled, states)


def erase(
    scope: str,
    *,
    using: str | None = None,
    batch_size: int = BATCH_SIZE,
    max_seconds: float | None = None,
    progress: Callable[[Erased], None] | None = None,
) -> Erased:
    """Delete all settled records of a scope, with their jobs, steps and cached replies.

    `scope` is a caller or one of its scopes: see `identity.scopes_of`. Each batch commits by
    itself and is then dropped from the cache, so this must not run inside a transaction; no batch
    begins after `max_seconds`. Records that somebody has locked are left.

    It cannot see what is written by a transaction that is open now: keep the caller out first, or
    erase again. Raises ValueError for a scope that is none, or a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1, not {batch_size}.")
    started = time.monotonic()
    alias = ledger.alias(using)
    done = Erased()
    for first, last in scopes_of(scope):
        place = (first, "")
        while True:
            batch = _delete(place, last, batch_size, alias)
            dropped = lock.drop(batch.identities)
            done = replace(
                done,
                deleted=done.deleted + len(batch.identities),
                batches=done.batches + 1,
                seconds=time.monotonic() - started,
                served_for=max(done.served_for, 0.0 if dropped else batch.replayable_for),
            )
            if progress is not None:
                progress(done)
            if len(batch.identities) < batch_size:
                break
            if max_seconds is not None and done.seconds >= max_seconds:
                return done
            place = batch.identities[-1].scope, batch.identities[-1].key
    return replace(done, left=count(scope, using=using))


def _delete(place: tuple[str, str], last: str, size: int, using: str) -> _Batch:
    """Delete the next settled records behind a place, in a transaction of their own."""
    skips = connections[using].features.has_select_for_update_skip_locked
    scope, key = place
    with transaction.atomic(using=using, durable=True):
        rows = list(
            _between(scope, last, using)
            .filter(Q(scope__gt=scope) | Q(scope=scope, key__gt=key), state__in=SETTLED)
            .order_by("scope", "key")
            .select_for_update(skip_locked=skips)
            .annotate(now=ServerNow())
            .values_list("id", "scope", "key", "expires_at", "now")[:size]
        )
        # Jobs and steps go along: the models say so, and not the database.
        doomed = IdempotencyRecord.objects.using(using).filter(pk__in=[row[0] for row in rows])
        doomed.delete()
    times = [(expires - now).total_seconds() for *_, expires, now in rows if expires is not None]
    identities = [Identity(scope, key, using) for _, scope, key, *_ in rows]
    return _Batch(identities, max(0.0, *times) if times else 0.0)


def _between(first: str, last: str, using: str) -> QuerySet[IdempotencyRecord]:
    records = IdempotencyRecord.objects.using(using)
    return records.filter(scope__gte=first, scope__lte=last)
