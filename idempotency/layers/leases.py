"""Leases: a claim that commits by itself, is renewed while its owner lives, and may be lost.

Every change asks for the record's id, its fencing token and an unsettled state: of an owner that
was taken over, settled or called off, nothing is written any more (Gray and Cheriton, 1989, for
the lease; Kleppmann, 2016, for the token).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.models import F, Q, QuerySet

from idempotency.fingerprint import Fingerprint
from idempotency.layers.clock import ServerNow, after
from idempotency.models import IdempotencyRecord, Job, State
from idempotency.outcomes import Claimed


@dataclass(frozen=True, slots=True)
class Left:
    """A record that an operator settles."""

    claimed: Claimed
    #: A job stands for it; else it was a request.
    is_job: bool
    operation: str
    fingerprint: Fingerprint


#: States in which somebody may still finish.
UNSETTLED: Final = (State.RUNNING, State.JOB)


def check_vendor(using: str) -> None:
    """Raises ImproperlyConfigured where leases cannot be kept."""
    if connections[using].vendor == "sqlite":
        raise ImproperlyConfigured(
            f"Leased executions and jobs need a database server, and {using!r} is SQLite, where a"
            " handler's writes would stop every heartbeat. Use PostgreSQL, MariaDB or MySQL, or"
            ' Policy(execution="atomic").'
        )


def renew(claimed: Claimed, lease: float, *, using: str) -> bool:
    """Put the end of the lease `lease` seconds from now; False where the claim is lost."""
    return _mine(claimed, using).update(lease_until=after(lease)) == 1


def take(claimed: Claimed, lease: float, *, using: str) -> Claimed | None:
    """Raise the fencing token and lease the claim anew; `None` where it is lost."""
    changed = _mine(claimed, using).update(attempt=F("attempt") + 1, lease_until=after(lease))
    return Claimed(claimed.record_id, claimed.attempt + 1) if changed == 1 else None


def take_all(record_ids: Collection[int], lease: float, *, using: str) -> None:
    """As `take`, of records that the caller has found overdue and locked."""
    records = IdempotencyRecord.objects.using(using).filter(pk__in=record_ids)
    records.update(attempt=F("attempt") + 1, lease_until=after(lease))


def leave(claimed: Claimed, state: State, kept: float, *, using: str) -> bool:
    """Give the claim up without a reply: released, abandoned or unknown, see `State`.

    The row stays, so that its token never goes backwards: for `kept` seconds, or until an
    operator settles an unknown outcome. False where the claim is lost already.
    """
    changed = _mine(claimed, using).update(
        state=state,
        attempt=F("attempt") + 1,
        lease_until=None,
        purge_at=None if state == State.UNKNOWN else after(kept),
    )
    return changed == 1


def retake(
    scope: str, key: str, *, using: str, attempt: int | None = None, held: bool = True
) -> Left | None:
    """Claim, for an operator, a key that was left without a reply; `None` where it was not.

    In the caller's transaction, which must settle it. `attempt` as in `picked`; not `held`: what
    its policy leaves to a verdict is left alone.
    """
    gone = Q(state=State.RUNNING, lease_until__lte=ServerNow())  # no sweep has come by yet
    left = Q(state=State.ABANDONED) | (gone if held else gone & Q(holds=False))
    if held:
        left |= Q(state=State.UNKNOWN)
    record = picked(scope, key, attempt, using=using).filter(left).first()
    if record is None:
        return None
    records = IdempotencyRecord.objects.using(using).filter(pk=record.pk)
    is_job = Job.objects.using(using).filter(record=record.pk).exists()
    records.update(
        attempt=F("attempt") + 1,
        state=State.JOB if is_job else State.RUNNING,
        lease_until=ServerNow(),
        purge_at=None,
    )
    fingerprint = Fingerprint.from_bytes(bytes(record.fingerprint), record.fields)
    claimed = Claimed(record.pk, record.attempt + 1)
    return Left(claimed, is_job, record.operation, fingerprint)


def picked(
    scope: str, key: str, attempt: int | None, *, using: str
) -> "QuerySet[IdempotencyRecord]":
    """A key's record, to be locked for an operator's verdict; none while another has it locked.

    `attempt` is the fencing token that the operator has seen: none where it has risen since.
    """
    records = IdempotencyRecord.objects.using(using).filter(scope=scope, key=key)
    if attempt is not None:
        records = records.filter(attempt=attempt)
    skips = connections[using].features.has_select_for_update_skip_locked
    return records.select_for_update(skip_locked=skips)


@dataclass(frozen=True, slots=True)
class Overdue:
    """A record whose lease is over."""

    claimed: Claimed
    #: A job stands for it; else it was a request.
    is_job: bool
    holds: bool
    operation: str


def due(limit: int, *, ago: float = 0.0, using: str) -> list[Overdue]:
    """Unsettled records whose lease was over `ago` seconds ago, locked for this transaction;
    others' are skipped.

    Nothing unsettled has a `purge_at`, so the index idempotency_purge_at finds them, however many
    settled records there are.
    """
    skips = connections[using].features.has_select_for_update_skip_locked
    found = (
        IdempotencyRecord.objects.using(using)
        .filter(purge_at=None, state__in=UNSETTLED, lease_until__lte=after(-ago))
        .order_by("id")
        .select_for_update(skip_locked=skips)
    )
    rows = found.values_list("id", "attempt", "state", "holds", "operation")[:limit]
    return [
        Overdue(Claimed(record_id, attempt), state == State.JOB, holds, operation)
        for record_id, attempt, state, holds, operation in rows
    ]


def _mine(claimed: Claimed, using: str) -> "QuerySet[IdempotencyRecord]":
    return IdempotencyRecord.objects.using(using).filter(
        pk=claimed.record_id, attempt=claimed.attempt, state__in=UNSETTLED
    )
